"""Every SMS provider against a gateway that answers, fails, hangs or talks without end."""

import asyncio
import json
import multiprocessing
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from app.infra.sms.choose import choose_sms
from app.infra.sms.console import ConsoleSms
from app.infra.sms.file import FileSms
from app.infra.sms.http import HttpSms, fill_template
from app.infra.sms.port import SmsSender, SmsUnavailable
from app.infra.sms.twilio import TwilioSms
from app.settings import SettingsError
from tests.support.databases import settings_for

PHONE, CODE, TEXT = "+79161234567", "123456", 'Your "code":\n123456 \N{GRINNING FACE}'
BODY = '{"to": "{phone}", "text": "{text}", "raw": ["{code}", {}]}'


@dataclass
class Gateway:
    """Raw TCP, so that it can misbehave; `mode` is a status, `hang`, `drip`, `endless` or `cut`."""

    mode: str = "200"
    port: int = 0
    requests: list[bytes] = field(default_factory=list[bytes])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        self.requests.append(head + await reader.readexactly(length))
        try:
            await self.answer(writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def answer(self, writer: asyncio.StreamWriter) -> None:
        match self.mode:
            case "hang":
                await asyncio.sleep(30)
            case "drip":
                for byte in b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0.1)
            case "endless":
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n")
                await writer.drain()
                await asyncio.sleep(30)
            case "cut":
                writer.write(b"HTTP/1.1 20")
            case status:
                writer.write(
                    f"HTTP/1.1 {status} X\r\nlocation: /\r\ncontent-length: 0\r\n\r\n".encode()
                )
        await writer.drain()


@asynccontextmanager
async def running(mode: str) -> AsyncIterator[Gateway]:
    gateway = Gateway(mode)
    server = await asyncio.start_server(gateway.serve, "127.0.0.1", 0)
    gateway.port = server.sockets[0].getsockname()[1]
    try:
        yield gateway
    finally:
        server.close()


def senders(port: int, timeout_seconds: float) -> list[SmsSender]:
    address = f"http://127.0.0.1:{port}"
    return [
        HttpSms(
            f"{address}/send",
            method="PUT",
            headers={"Authorization": "Key k"},
            body=BODY,
            timeout_seconds=timeout_seconds,
        ),
        TwilioSms("AC1", "token", "+15550001111", timeout_seconds=timeout_seconds, api=address),
    ]


@pytest.mark.parametrize("mode", ["200", "201", "202", "endless"])
async def test_a_taken_message_is_enough(mode: str) -> None:
    async with running(mode) as gateway:
        for sender in senders(gateway.port, 5):
            await sender.send(PHONE, CODE, TEXT)
            await sender.close()
    assert len(gateway.requests) == 2


@pytest.mark.parametrize("mode", ["400", "401", "302", "429", "500", "503", "cut", "hang", "drip"])
async def test_a_failing_or_silent_gateway_is_unavailable_in_time(mode: str) -> None:
    async with running(mode) as gateway:
        for sender in senders(gateway.port, 0.5):
            started = time.monotonic()
            with pytest.raises(SmsUnavailable):
                await sender.send(PHONE, CODE, TEXT)
            assert time.monotonic() - started < 20
            await sender.close()


async def test_nobody_listening_is_unavailable() -> None:
    async with running("200") as gateway:
        port = gateway.port
    for sender in senders(port, 1):
        with pytest.raises(SmsUnavailable):
            await sender.send(PHONE, CODE, TEXT)


async def test_the_gateway_gets_valid_json_with_its_headers() -> None:
    async with running("200") as gateway:
        sender, _ = senders(gateway.port, 5)
        await sender.send(PHONE, CODE, TEXT)
    head, _, body = gateway.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"PUT /send HTTP/1.1")
    assert b"Authorization: Key k" in head
    assert b"Content-Type: application/json" in head
    assert json.loads(body) == {"to": PHONE, "text": TEXT, "raw": [CODE, {}]}


async def test_twilio_gets_its_form() -> None:
    async with running("201") as gateway:
        _, sender = senders(gateway.port, 5)
        await sender.send(PHONE, CODE, "hi")
    head, _, body = gateway.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /2010-04-01/Accounts/AC1/Messages.json")
    assert body == b"To=%2B79161234567&Body=hi&From=%2B15550001111"


def test_a_text_cannot_break_out_of_its_string() -> None:
    filled = fill_template(BODY, phone=PHONE, code='"}', text='{phone}", "to": "x')
    assert json.loads(filled)["text"] == '{phone}", "to": "x'


async def test_the_console_shows_the_code_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    await ConsoleSms().send(PHONE, CODE, "code\n123456\x1b[2J")
    assert capsys.readouterr().out == f"SMS to {PHONE}: code\\n123456\\x1b[2J\n"


def _write_many(path: str, number: int) -> None:
    async def write() -> None:
        sender = FileSms(Path(path))
        for line in range(200):
            await sender.send(PHONE, f"{number}-{line}", "x" * 500)

    asyncio.run(write())


def test_the_file_keeps_whole_lines_of_several_processes(directory: Path) -> None:
    path = directory / "var" / "sms.jsonl"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(str(path), number)) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({line["code"] for line in lines}) == len(lines) == 600
    assert lines[0].keys() == {"phone", "code", "text", "sent_at"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_the_line_is_there_on_return(directory: Path) -> None:
    path = directory / "sms.jsonl"
    await FileSms(path).send(PHONE, CODE, TEXT)
    assert json.loads(path.read_text())["code"] == CODE


async def test_a_file_that_cannot_be_written_is_unavailable(directory: Path) -> None:
    (directory / "sms.jsonl").mkdir()
    with pytest.raises(SmsUnavailable):
        await FileSms(directory / "sms.jsonl").send(PHONE, CODE, TEXT)


def test_the_settings_choose(directory: Path) -> None:
    settings = settings_for(directory)
    assert isinstance(choose_sms(settings), (ConsoleSms, FileSms))


@pytest.mark.parametrize("provider", ["twilio", "http"])
def test_a_provider_without_its_settings_is_refused(
    directory: Path, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(directory)
    sms = settings.sms.model_copy(update={"provider": provider})
    object.__setattr__(settings, "sms", sms)
    with pytest.raises(SettingsError, match="SMS_PROVIDER"):
        choose_sms(settings)
