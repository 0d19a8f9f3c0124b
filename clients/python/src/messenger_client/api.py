"""Calls over HTTP: tokens that renew themselves, and every answer as a value, a `Problem` or `Unreachable`."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, cast

import httpx

from messenger_client.backoff import Backoff
from messenger_client.options import Options
from messenger_client.problems import Problem, SessionEnded, Unreachable
from messenger_client.store import Store, Tokens

_GATEWAY_FAULTS = frozenset({502, 503, 504})
# What the server answers to a refresh token that is over; anything else says nothing about it.
_REFRESH_REFUSED = frozenset({400, 401, 403})
_UNAUTHORIZED = 401
_NO_CONTENT = 204
_TRIES = 3
_RENEWING_SECONDS = 25.0


class Api:
    """The HTTP side of one device."""

    def __init__(self, base_url: str, store: Store, options: Options) -> None:
        self._urls = (base_url.rstrip("/"), *(url.rstrip("/") for url in options.base_urls))
        self._place = 0
        self._store = store
        self._options = options
        self._tokens: Tokens | None = None
        self._is_loaded = False
        self._renewal: asyncio.Task[str] | None = None
        # Until the server has said how long its access tokens live.
        self.access_lifetime = 15 * 60.0
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(options.request_timeout, connect=options.connect_timeout),
            verify=_tls(),
            trust_env=False,
            proxy=options.proxy if options.transport is None else None,
            transport=options.transport,
            headers={"User-Agent": options.user_agent},
        )

    async def close(self) -> None:
        """Close the connections, behind a renewal under way: its answer must not be lost."""
        if self._renewal is not None:
            await asyncio.wait([self._renewal], timeout=self._options.request_timeout)
            self._renewal.cancel()
        await self._http.aclose()

    @property
    def base_url(self) -> str:
        """The address whose turn it is."""
        return self._urls[self._place]

    def turn(self, failed: str) -> None:
        """This address did not answer: the next one's turn, once for all who found out."""
        if self.base_url == failed:
            self._place = (self._place + 1) % len(self._urls)

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        params: Mapping[str, Any] | None = None,
        access_token: str | None = None,
    ) -> Any:
        """One request.

        Raises:
            Problem: the server refused.
            Unreachable: it is unknown what became of it.
        """
        headers = {} if access_token is None else _authorization(access_token)
        with self._reaching(f"{method} {path}", OSError) as base_url:
            url = f"{base_url}{self._options.api_prefix}{path}"
            async with asyncio.timeout(self._options.request_timeout):
                answer = await self._http.request(
                    method, url, json=body, params=params, headers=headers
                )
            return _read(answer)

    @contextmanager
    def _reaching(self, what: str, *faults: type[Exception]) -> Generator[str]:
        """The address whose turn it is; where it does not answer, it is the next one's.

        `faults`: of the line as well, where no file of this machine is read or written.

        Raises:
            Unreachable
        """
        base_url = self.base_url
        try:
            yield base_url
        except (httpx.HTTPError, TimeoutError, *faults) as error:
            self.turn(base_url)
            raise Unreachable(f"{what}: {type(error).__name__}") from error
        except Unreachable:
            self.turn(base_url)
            raise

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        params: Mapping[str, Any] | None = None,
    ) -> Any:
        """A request of the signed-in device; one that only reads is tried again where no answer came.

        Raises:
            Problem, Unreachable
            SessionEnded: the session is over.
        """
        backoff = Backoff(self._options.backoff_first, self._options.backoff_most)
        tries = _TRIES if method == "GET" else 1
        while True:
            tries -= 1
            try:
                return await self._authorized(
                    lambda token: self.ask(method, path, body, params=params, access_token=token)
                )
            except Unreachable as error:
                if tries <= 0:
                    raise
                await asyncio.sleep(backoff.next(at_least=error.retry_after or 0.0))

    async def upload(self, file: Path | bytes, *, name: str, purpose: str | None) -> Any:
        """`POST /files/upload`, read from the disk while it is sent. As long as it gets on it is not given up.

        Raises:
            Problem, Unreachable, SessionEnded
            OSError: the file cannot be read.
        """

        async def send(token: str) -> Any:
            content = file if isinstance(file, bytes) else await asyncio.to_thread(file.open, "rb")
            try:
                with self._reaching("POST /files/upload") as base_url:
                    answer = await self._http.post(
                        f"{base_url}{self._options.api_prefix}/files/upload",
                        data={} if purpose is None else {"purpose": purpose},
                        files={"file": (name, content)},
                        headers=_authorization(token),
                    )
                    return _read(answer)
            finally:
                if not isinstance(content, bytes):
                    content.close()

        return await self._authorized(send)

    async def download(self, url: str, path: Path) -> None:
        """Write what lies at the `url` of a File to `path`, whole or not at all.

        Raises:
            Problem, Unreachable, SessionEnded
            OSError: the file cannot be written.
        """
        part = path.with_name(f"{path.name}.part")

        async def fetch(token: str) -> None:
            with self._reaching(f"GET {url}") as base_url:
                async with self._http.stream(
                    "GET", base_url + url, headers=_authorization(token), follow_redirects=True
                ) as answer:
                    if not answer.is_success:
                        await answer.aread()
                        _read(answer)
                    with part.open("wb") as written:
                        async for chunk in answer.aiter_bytes():
                            written.write(chunk)

        try:
            await self._authorized(fetch)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    async def _authorized(self, ask: Callable[[str], Awaitable[Any]]) -> Any:
        """What `ask` answers with the access token, once more with a new one where that was refused."""
        token = await self.access_token()
        try:
            return await ask(token)
        except Problem as problem:
            if problem.status != _UNAUTHORIZED:
                raise
        token = await self.renew(unlike=token)
        try:
            return await ask(token)
        except Problem as problem:
            if problem.status == _UNAUTHORIZED:
                raise SessionEnded(problem.detail) from problem
            raise

    async def keep(self, answer: Mapping[str, Any]) -> None:
        """Make the tokens of a sign-in or a renewal ours."""
        self.access_lifetime = float(answer["expires_in"])
        tokens = Tokens(
            answer["access_token"],
            answer["refresh_token"],
            self._now() + self.access_lifetime,
        )
        await self._store.save_tokens(tokens)
        self._tokens, self._is_loaded = tokens, True

    async def forget(self) -> None:
        """Signed out."""
        await self._store.save_tokens(None)
        self._tokens, self._is_loaded = None, True

    async def access_token(self) -> str:
        """One that lives a while longer.

        Raises:
            SessionEnded, Unreachable
        """
        tokens = await self._load()
        margin = min(self._options.renew_before, self.access_lifetime / 3)
        if tokens.access_expires_at - self._now() > margin:
            return tokens.access_token
        return await self.renew(unlike=tokens.access_token)

    async def renew(self, *, unlike: str) -> str:
        """An access token other than `unlike`; callers that come at once share one renewal.

        Raises:
            SessionEnded: the refresh token is refused.
            Unreachable: it can be tried again with the same refresh token for 30 s after a lost answer.
        """
        tokens = await self._load()
        if tokens.access_token != unlike:
            return tokens.access_token
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew(tokens.refresh_token))
        # It goes on when a caller gives up: an answer that nobody reads costs the session.
        return await asyncio.shield(self._renewal)

    async def _renew(self, refresh_token: str) -> str:
        answer = await self._ask_for_tokens(refresh_token)
        await self.keep(answer)
        return answer["access_token"]

    async def _ask_for_tokens(self, refresh_token: str) -> Mapping[str, Any]:
        """A lost answer is asked for again at once: the server gives the same successor for 30 s."""
        backoff = Backoff(self._options.backoff_first, 2.0)
        deadline = time.monotonic() + _RENEWING_SECONDS
        while True:
            try:
                return await self._ask_for_tokens_once(refresh_token)
            except Unreachable as error:
                pause = backoff.next(at_least=error.retry_after or 0.0)
                if time.monotonic() + pause > deadline:
                    raise
                await asyncio.sleep(pause)

    async def _ask_for_tokens_once(self, refresh_token: str) -> Mapping[str, Any]:
        try:
            return await self.ask("POST", "/auth/refresh-token", {"refresh_token": refresh_token})
        except Problem as problem:
            if problem.status in _REFRESH_REFUSED:
                raise SessionEnded(problem.detail) from problem
            raise Unreachable(str(problem), problem.retry_after) from problem

    def _now(self) -> float:
        """Seconds since 1970: tokens outlive the process, a monotonic clock does not."""
        return datetime.now(UTC).timestamp()  # noqa: TID251 - this package has no clock to inject

    async def _load(self) -> Tokens:
        if not self._is_loaded:
            self._tokens = await self._store.load_tokens()
            self._is_loaded = True
        if self._tokens is None:
            raise SessionEnded("not signed in")
        return self._tokens


def _authorization(access_token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {access_token}"}


def _read(answer: httpx.Response) -> Any:
    retry_after = _seconds(answer.headers.get("retry-after"))
    if answer.status_code in _GATEWAY_FAULTS:
        raise Unreachable(f"{answer.status_code}", retry_after)
    if answer.status_code == _NO_CONTENT:
        return None
    if answer.is_success:
        try:
            return answer.json()
        except ValueError as error:
            # Something between us and the server answered in its place.
            raise Unreachable("the answer is no JSON") from error
    raise Problem(answer.status_code, _read_document(answer), retry_after)


def _read_document(answer: httpx.Response) -> dict[str, Any]:
    """Empty where something between us and the server answered in its own words."""
    try:
        document = answer.json()
    except ValueError:
        return {}
    return cast("dict[str, Any]", document) if isinstance(document, dict) else {}


def _seconds(value: str | None) -> float | None:
    return float(value) if value is not None and value.isdecimal() else None


@cache
def _tls() -> ssl.SSLContext:
    """Made once: it costs 20 ms."""
    return httpx.create_ssl_context()
