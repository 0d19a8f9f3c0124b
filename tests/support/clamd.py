"""A clamd of the tests' own: it speaks clamd's protocol over real sockets and finds signatures by looking at the bytes.

In threads, so that a test and the servers that it started may both wait for it.
"""

import contextlib
import socket
import socketserver
import threading
from pathlib import Path
from typing import Final, Self

# In two halves: whoever searches this file finds nothing.
EICAR: Final = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
SIGNATURE: Final = "Eicar-Test-Signature"
_PATIENCE_SECONDS: Final = 60.0


class ClamdServer:
    """`place`: a port of 127.0.0.1 or the path of a Unix socket. It can be stopped and started again there.

    `mode` says what becomes of a stream: `search`; `silent` and `stuck` (which does not even read) answer nothing;
    `cut` closes when all is there; `drip` answers byte by byte; any other word is the answer itself. `max_bytes` is
    StreamMaxLength. Nothing is answered while `gate` is shut.
    """

    def __init__(self, place: int | Path) -> None:
        self.signatures = {EICAR: SIGNATURE}
        self.mode = "search"
        self.is_mute = False
        self.max_bytes = 26_214_400
        self.gate = threading.Event()
        self.gate.set()
        self.received: list[int] = []
        self.open_connections = 0
        self._place = place
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._server: socketserver.BaseServer | None = None

    @property
    def address(self) -> str:
        """As CLAMD_ADDRESS has it."""
        if isinstance(self._place, Path):
            return f"unix://{self._place}"
        return f"tcp://127.0.0.1:{self._place}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def reset(self) -> None:
        """As it was in the beginning, and running."""
        self.stop()
        self.signatures = {EICAR: SIGNATURE}
        self.mode, self.is_mute, self.max_bytes = "search", False, 26_214_400
        self.gate.set()
        self.received.clear()
        self.start()

    def start(self) -> None:
        owner = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                owner.serve(self.request)

        self._stopping.clear()
        if isinstance(self._place, Path):
            self._place.unlink(missing_ok=True)
            self._server = _UnixServer(str(self._place), Handler)
        else:
            self._server = _TcpServer(("127.0.0.1", self._place), Handler)
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def stop(self) -> None:
        if self._server is None:
            return
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._server = None
        if isinstance(self._place, Path):
            self._place.unlink(missing_ok=True)

    def serve(self, line: socket.socket) -> None:
        """One connection, until the other side has closed it."""
        line.settimeout(_PATIENCE_SECONDS)
        with self._lock:
            self.open_connections += 1
        try:
            with contextlib.suppress(OSError, EOFError):
                if self._answer(line):
                    _wait_for_end(line)
        finally:
            with self._lock:
                self.open_connections -= 1

    def _answer(self, line: socket.socket) -> bool:
        """False: we close, not they."""
        command = b""
        while not command.endswith(b"\0"):
            command += _receive(line, 1)
        if self.is_mute:
            return True
        match command:
            case b"zPING\0":
                line.sendall(b"PONG\0")
            case b"zINSTREAM\0":
                return self._take_stream(line)
            case _:
                line.sendall(b"UNKNOWN COMMAND\0")
        return True

    def _take_stream(self, line: socket.socket) -> bool:
        if self.mode == "stuck":
            self._stopping.wait(_PATIENCE_SECONDS)
            return False
        content = bytearray()
        while size := int.from_bytes(_receive(line, 4), "big"):
            if len(content) + size > self.max_bytes:
                line.sendall(b"INSTREAM size limit exceeded. ERROR\0")
                return False
            content += _receive(line, size)
        self.received.append(len(content))
        self.gate.wait(_PATIENCE_SECONDS)
        return self._judge(line, bytes(content))

    def _judge(self, line: socket.socket, content: bytes) -> bool:
        found = [name for pattern, name in self.signatures.items() if pattern in content]
        verdict = f"stream: {found[0]} FOUND\0" if found else "stream: OK\0"
        match self.mode:
            case "search":
                line.sendall(verdict.encode())
            case "silent":
                pass
            case "cut":
                line.sendall(verdict.encode()[:-1])
                return False
            case "drip":
                for byte in verdict.encode():
                    line.sendall(bytes([byte]))
            case answer:
                line.sendall(answer.encode() + b"\0")
        return True


class _TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False


def _receive(line: socket.socket, size: int) -> bytes:
    content = bytearray()
    while len(content) < size:
        piece = line.recv(size - len(content))
        if not piece:
            raise EOFError
        content += piece
    return bytes(content)


def _wait_for_end(line: socket.socket) -> None:
    while line.recv(65_536):
        pass
