"""A device of one person: signs in, sends, and stays up to date through every outage."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from messenger_client.api import Api
from messenger_client.backoff import Backoff
from messenger_client.changes import Change, Frame, Position
from messenger_client.line import Closed, Difference, Event, Line, is_answer
from messenger_client.options import Options
from messenger_client.outbox import Outbox
from messenger_client.problems import PasswordRequired, Problem, SessionEnded, Unreachable
from messenger_client.store import Store
from messenger_client.sync import (
    Action,
    Apply,
    FetchDifference,
    Reconnect,
    SendFrame,
    Signal,
    Sync,
)

T = TypeVar("T")
OnChange = Callable[[Change], Awaitable[None] | None]
OnSignal = Callable[[Frame], Awaitable[None] | None]

_MAX_BATCH = 256
_HELLO_SECONDS = 20.0
_STOPPING_SECONDS = 5.0
# Close codes.
_SESSION_ENDED = 4401
_TOO_SLOW = 4409
_TOO_MANY = 4429
_TOO_MANY_SECONDS = 5.0
# Of a token's life, after which an open socket gets a new one.
_EXTEND_AFTER = 0.6

_log = logging.getLogger(__name__)


class _Broken(Exception):  # noqa: N818 - what happened
    """The connection is over. `pause`: seconds to wait at least; None: come back at once."""

    def __init__(self, reason: str, *, code: int = 1006, pause: float | None = 0.0) -> None:
        super().__init__(reason)
        self.code = code
        self.pause = pause


class Client:
    """`on_change` is called after the store has applied a change, `on_signal` for typing, presence and calls."""

    def __init__(
        self,
        base_url: str,
        store: Store,
        *,
        options: Options | None = None,
        on_signal: OnSignal | None = None,
        on_change: OnChange | None = None,
    ) -> None:
        self._options = options or Options()
        self._store = store
        self._on_signal = on_signal
        self._on_change = on_change
        self._api = Api(base_url, store, self._options)
        self._outbox = Outbox(self._api, store, self._options)
        self._backoff = Backoff(self._options.backoff_first, self._options.backoff_most)
        self._position = Position()
        self._sync = Sync(Position())
        self._line: Line | None = None
        self._whole = asyncio.Event()
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()
        self._fetching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def position(self) -> Position:
        """What is applied."""
        return self._position.copy()

    @property
    def is_connected(self) -> bool:
        """Whether a socket is open at this moment."""
        return self._line is not None

    # Signing in and calling.

    async def request_code(self, phone: str) -> dict[str, Any]:
        """`POST /auth/send-verification`: `{verification_id, phone, expires_in, ...}`."""
        return await self._api.ask("POST", "/auth/send-verification", {"phone": phone})

    async def sign_in(
        self,
        *,
        verification_id: str,
        code: str,
        first_name: str | None = None,
        last_name: str | None = None,
        device_name: str | None = None,
    ) -> dict[str, Any]:
        """Open a session with the code that came by SMS; answers the user. A name makes a new account.

        Raises:
            PasswordRequired: a second factor is set.
            Problem, Unreachable
        """
        body = {
            "verification_id": verification_id,
            "code": code,
            "first_name": first_name,
            "last_name": last_name,
            "device_name": device_name,
        }
        given = {name: value for name, value in body.items() if value is not None}
        answer = await self._api.ask("POST", "/auth/verify-code", given)
        if answer.get("password_required"):
            raise PasswordRequired(answer["password_token"], answer["methods"])
        await self._api.keep(answer)
        return answer["user"]

    async def sign_in_with_factor(
        self,
        password_token: str,
        *,
        password: str | None = None,
        totp: str | None = None,
        recovery_code: str | None = None,
        device_name: str | None = None,
    ) -> dict[str, Any]:
        """Go on after `PasswordRequired`, with one of the three proofs; answers the user."""
        body = {
            "password_token": password_token,
            "password": password,
            "totp": totp,
            "recovery_code": recovery_code,
            "device_name": device_name,
        }
        given = {name: value for name, value in body.items() if value is not None}
        answer = await self._api.ask("POST", "/auth/verify-password", given)
        await self._api.keep(answer)
        return answer["user"]

    async def sign_out(self) -> None:
        """End this session on the server, and forget its tokens."""
        with suppress(SessionEnded):
            await self._api.call("POST", "/auth/logout")
        await self._api.forget()

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        params: Mapping[str, Any] | None = None,
    ) -> Any:
        """Any call of the API, relative to its prefix, as this device.

        Raises:
            Problem: a definite refusal.
            Unreachable: unknown; only what merely reads is tried again by itself.
            SessionEnded
        """
        return await self._api.call(method, path, body, params=params)

    async def upload(
        self, file: Path | bytes, *, name: str | None = None, purpose: str | None = None
    ) -> dict[str, Any]:
        """Store a file; answers the File, whose `id` goes into the `attachments` of a message.

        `name`: what receivers see, else that of the path. `purpose`: `document` keeps a photo as it is.

        Raises:
            Problem: the server refused it.
            Unreachable: nothing is left behind; try it again.
            SessionEnded
        """
        if name is None:
            name = "file" if isinstance(file, bytes) else file.name
        return await self._api.upload(file, name=name, purpose=purpose)

    async def download(self, url: str, path: Path) -> None:
        """Write an attachment, or one of its thumbnails, to `path`: whole or not at all.

        Raises:
            Problem: also of what I may not see (404).
            Unreachable, SessionEnded
        """
        await self._api.download(url, path)

    async def send_message(
        self,
        chat_id: int,
        text: str | None = None,
        *,
        client_message_id: str | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        """Say something, stubbornly: kept in the store and tried with one id until there is an answer.

        With `attachments=[file_id, ...]` the text is their caption.

        Raises:
            Problem: the server refused it.
            SessionEnded: it stays in the outbox.
        """
        body: dict[str, Any] = {"chat_id": chat_id, **fields}
        if text is not None:
            body["text"] = text
        if client_message_id is not None:
            body["client_message_id"] = client_message_id
        return await self._outbox.send(body)

    async def request(self, frame_type: str, data: Mapping[str, Any]) -> dict[str, Any]:
        """Send a frame over the open socket, once; answers the `data` of its ack.

        Raises:
            Problem, Unreachable
        """
        if self._line is None:
            raise Unreachable("no socket is open")
        answer = await self._line.ask(frame_type, data)
        return answer.get("data") or {}

    # Staying up to date.

    async def run(self) -> None:
        """Connect, catch up, and come back after every break, until `stop`.

        Raises:
            SessionEnded: sign in again.
            Exception: what the store or a callback raised.
        """
        self._stopping.clear()
        self._ended.clear()
        try:
            await self._outbox.resend()
            while not self._stopping.is_set():
                broken = await self._live_once()
                if broken is not None:
                    await self._rest(broken)
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """Let `run` return."""
        self._stopping.set()

    async def close(self) -> None:
        """Stop everything; what has no answer stays in the outbox."""
        await self.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOPPING_SECONDS):
                await self._ended.wait()
        await self._outbox.close()
        await self._api.close()
        await self._store.close()

    async def wait_until_synced(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - a plain API
        """Until a socket is open and everything that was missed is applied.

        Raises:
            TimeoutError
        """
        async with asyncio.timeout(timeout):
            await self._whole.wait()

    async def _live_once(self) -> _Broken | None:
        """One connection; None where it ended because of `stop`."""
        try:
            await self._live()
        except _Broken as broken:
            if broken.code == _TOO_SLOW and self._whole.is_set():
                # The server keeps nothing for us, and the log has it all: no reason to wait.
                broken.pause = None
            return broken
        finally:
            self._line = None
            self._whole.clear()
            await self._stop_fetching()
        return None

    async def _rest(self, broken: _Broken) -> None:
        """Until the next attempt, or `stop`."""
        _log.debug("socket lost: %s", broken)
        if broken.code == _SESSION_ENDED:
            # Revoked, or only the token was too old: the refresh tells.
            await self._check_session()
        pause = 0.0 if broken.pause is None else self._backoff.next(at_least=broken.pause)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._stopping.wait()

    async def _check_session(self) -> None:
        with suppress(Unreachable):
            await self._api.renew(unlike=await self._api.access_token())

    async def _live(self) -> None:
        """One connection, from its ticket to its end.

        Raises:
            _Broken: how it ended, unless it was `stop`.
        """
        self._position = await self._store.load()
        self._sync = Sync(self._position)
        line = await self._unless_stopped(self._open())
        if line is None:
            return
        try:
            async with line:
                heartbeat = await self._unless_stopped(self._greet(line))
                if heartbeat is not None:
                    await self._stay(line, heartbeat)
        except _Broken:
            self._api.turn(line.base_url)
            raise

    async def _stay(self, line: Line, heartbeat: float) -> None:
        works = [
            asyncio.create_task(work)
            for work in (
                self._follow(line),
                line.stay_alive(heartbeat),
                self._extend(line),
                self._stopping.wait(),
            )
        ]
        try:
            done, _ = await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in works:
                task.cancel()
            await asyncio.gather(*works, return_exceptions=True)
        for task in done:
            _raise_broken(task)

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What the work gives, or None once `stop` was called."""
        task = asyncio.create_task(work)
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            for it in (task, stopping):
                it.cancel()
            await asyncio.gather(task, stopping, return_exceptions=True)

    async def _open(self) -> Line:
        try:
            answer = await self._api.call("POST", "/auth/ws-ticket", {})
        except Unreachable as error:
            raise _Broken(str(error), pause=error.retry_after or 0.0) from error
        except Problem as problem:
            raise _Broken(str(problem), pause=problem.retry_after or 1.0) from problem
        base_url = self._api.base_url
        try:
            return await Line.open(base_url, answer["ticket"], self._options)
        except Unreachable as error:
            self._api.turn(base_url)
            raise _Broken(str(error)) from error

    async def _greet(self, line: Line) -> float:
        """Take `hello`; answers how often to ping, in seconds."""
        try:
            async with asyncio.timeout(_HELLO_SECONDS):
                first = await line.events.get()
        except TimeoutError as error:
            raise _Broken("no hello came") from error
        self._line = line
        await self._take([first], line)
        try:
            return float(cast("Frame", first)["data"]["heartbeat_seconds"])
        except (KeyError, TypeError, ValueError) as error:
            raise _Broken("something else came before hello") from error

    async def _follow(self, line: Line) -> None:
        """Take what comes, as much as is there at once: fewer, larger transactions while catching up."""
        while True:
            batch = [await line.events.get()]
            while len(batch) < _MAX_BATCH and not line.events.empty():
                batch.append(line.events.get_nowait())
            await self._take(batch, line)

    async def _take(self, events: Sequence[Event], line: Line) -> None:
        actions: list[Action] = []
        ended: Closed | None = None
        for event in events:
            match event:
                case Closed():
                    ended = event
                case Difference():
                    actions += self._sync.difference(event.answer)
                case _ if not is_answer(event):
                    actions += self._sync.receive(event)
                case {"type": "error"} if str(event.get("request_id", "")).startswith("resume"):
                    actions.append(Reconnect("the resume was refused"))
                case _:
                    pass
        await self._perform(actions, line)
        if ended is not None:
            raise _closed(ended)
        if self._sync.is_whole:
            self._backoff.reset()
            self._whole.set()
        else:
            self._whole.clear()

    async def _perform(self, actions: Sequence[Action], line: Line) -> None:
        """One transaction for all that is to be applied; then the rest, in order."""
        await self._apply(
            [it for action in actions if isinstance(action, Apply) for it in action.changes]
        )
        for action in actions:
            match action:
                case Apply():
                    continue
                case SendFrame():
                    await self._send(line, action.frame)
                case FetchDifference():
                    self._fetching = asyncio.create_task(self._fetch(action, line))
                case Signal():
                    await _tell(self._on_signal, action.frame)
                case Reconnect():
                    raise _Broken(action.reason)

    async def _apply(self, changes: Sequence[Change]) -> None:
        if changes:
            await _to_its_end(self._apply_all(changes))

    async def _apply_all(self, changes: Sequence[Change]) -> None:
        await self._store.apply(changes)
        self._position.move(changes)
        for change in changes:
            await _tell(self._on_change, change)

    async def _send(self, line: Line, frame: Frame) -> None:
        try:
            await line.send(frame)
        except Unreachable as error:
            raise _Broken(str(error)) from error

    async def _fetch(self, question: FetchDifference, line: Line) -> None:
        body = {"epoch": question.epoch, "state": dict(question.state)}
        try:
            answer = await self._api.call("POST", "/updates/difference", body)
        except (Problem, Unreachable, SessionEnded):
            # A new connection resumes instead, and finds out what is wrong.
            await line.events.put(Closed(0))
        else:
            await line.events.put(Difference(answer))

    async def _stop_fetching(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)
            self._fetching = None

    async def _extend(self, line: Line) -> None:
        """Give the socket a new token before the one that opened it expires.

        Which is when the server closes it, if no token can be had until then.
        """
        expires_in = self._api.access_lifetime
        backoff = Backoff(self._options.backoff_first, self._options.backoff_most)
        while True:
            await asyncio.sleep(expires_in * _EXTEND_AFTER)
            backoff.reset()
            token = await self._renew_stubbornly(backoff)
            answer = await line.ask("auth", {"token": token})
            expires_in = float(answer["data"]["expires_in"])

    async def _renew_stubbornly(self, backoff: Backoff) -> str:
        while True:
            try:
                return await self._api.renew(unlike=await self._api.access_token())
            except Unreachable as error:
                await asyncio.sleep(backoff.next(at_least=error.retry_after or 0.0))


def _raise_broken(task: "asyncio.Task[Any]") -> None:
    """What ended one part of a connection ends all of it."""
    try:
        task.result()
    except (Unreachable, Problem) as error:
        raise _Broken(str(error)) from error


def _closed(event: Closed) -> _Broken:
    reason = f"closed with {event.code}"
    pause = _TOO_MANY_SECONDS if event.code == _TOO_MANY else 0.0
    return _Broken(reason, code=event.code, pause=pause)


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Also where the connection ends meanwhile: what is stored is told as well."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _tell(listener: Callable[[Any], Awaitable[None] | None] | None, what: object) -> None:
    if listener is None:
        return
    result = listener(what)
    if inspect.isawaitable(result):
        await result
