"""Routes that take strict input only: bounded UTF-8 JSON bodies, unambiguous queries."""

import asyncio
import re
import time
from collections.abc import Callable, Coroutine
from enum import Enum
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request, params
from fastapi._compat import ModelField
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_flat_params
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security.base import SecurityBase
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from app.infra.deadline import current_call
from app.kernel.problems import (
    BadRequest,
    FieldError,
    Invalid,
    NotFound,
    Problem,
    RateLimited,
    TooLarge,
    UnsupportedMediaType,
)
from app.transport.http.limits import admit, count_refusal, limit_of, serves_accounts
from app.transport.http.problems import problem_responses
from app.transport.http.refusals import find_subject
from app.transport.http.strict_json import JsonValue, parse_json
from app.transport.limits import LimitClass

DEFAULT_MAX_BODY_SIZE: Final = 1_048_576
# Of whoever need not be known: codes, tokens and passwords are short, and anybody may send them.
STRANGERS_BODY_SIZE: Final = 16_384
BODY_SECONDS: Final = 30

_JSON_TYPE = re.compile(
    r'application/json\s*(?:;\s*charset\s*=\s*"?utf-?8"?\s*)?;?\s*', re.IGNORECASE
)
_MAX_QUERY_FIELDS = 50
# RFC 9110 section 9.2.1.
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# The rest of such a body is not worth reading.
CLOSE: Final = {"Connection": "close"}
_STREAMED: Final = "is_streamed"

F = TypeVar("F", bound=Callable[..., Any])


class QueryMalformed(Invalid):
    code = "query_malformed"
    title = "The query string is ambiguous or not UTF-8"


class BodyTooSlow(BadRequest):
    code = "body_too_slow"
    title = "The body did not arrive in time"


def streamed(endpoint: F) -> F:
    """Below `@router.post(...)`: the route reads its body itself, while it comes (see `streams.py`), and
    refuses what is not of its type. Who is calling is known before a byte of it is read.
    """
    setattr(endpoint, _STREAMED, True)
    return endpoint


class StrictRoute(APIRoute):
    """An APIRoute whose input means one thing only. Documents the refusals it adds itself."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        self.limit = limit_of(endpoint)
        self.is_streamed: bool = getattr(endpoint, _STREAMED, False)
        super().__init__(path, endpoint, **options)
        # What a router is included with is worked out again from `self.responses`.
        self.responses = problem_responses(*self._own_refusals()) | self.responses

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler behind the checks of query and body."""
        handle = super().get_route_handler()
        limit = self.limit
        is_for_accounts = serves_accounts(self.dependant)
        takes_json = self._takes_json()
        if takes_json:
            handle = _with_json(handle, limit, is_for_accounts=is_for_accounts)
        takes_nothing = self._takes_nothing()
        reads_itself = not takes_json and not takes_nothing and self._may_change()
        # What is unknown is ignored, and where nothing is asked for there is nothing to check.
        has_query = bool(self._parameters())

        async def handle_strictly(request: Request) -> Response:
            check_path(request)
            if has_query:
                check_query(request.scope["query_string"])
            if takes_nothing:
                refuse_form(request)
            await admit(request, limit, is_for_accounts=is_for_accounts)
            if reads_itself:
                _wait_for_client()
            return await handle(request)

        return handle_strictly

    def _takes_json(self) -> bool:
        return self.body_field is not None and not isinstance(
            self.body_field.field_info, params.Form
        )

    def _takes_nothing(self) -> bool:
        """A body must not even be offered, unless the route asks nothing but to be read."""
        return self.body_field is None and self._may_change() and not self.is_streamed

    def _may_change(self) -> bool:
        return not (self.methods or set()) <= SAFE_METHODS

    def _parameters(self) -> list[ModelField]:
        """Of the route and of what it depends on."""
        return get_flat_params(self.dependant)

    def _own_refusals(self) -> tuple[int, ...]:
        """Any call may find the database or a key away: 503, with `Retry-After`."""
        return (*self._refusals_of_input(), *self._refusals_of_proof(), 503)

    def _refusals_of_proof(self) -> tuple[int, ...]:
        """Whoever is signed in by cookie needs a CSRF token for this."""
        return (403,) if self._may_change() and _is_signed_in(self.dependant) else ()

    def _refusals_of_input(self) -> tuple[int, ...]:
        if self._takes_json() or self.is_streamed:
            return (400, 413, 415, 422, 429)
        has_input = bool(self.body_field) or bool(self._parameters())
        form = (415,) if self._takes_nothing() else ()
        return (*form, 422, 429) if has_input else (*form, 429)


class SliceRouter(APIRouter):
    """The routes of one slice, strict, and skipped as a whole by requests of others.

    Measured with ten slices of six routes: trying each route in turn, twice as an included router
    does, cost more than half of a request.
    """

    def __init__(self, *, prefix: str, tags: list[str | Enum]) -> None:
        super().__init__(prefix=prefix, tags=tags, route_class=StrictRoute)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Every path of ours holds our prefix, wherever we are mounted."""
        if self.prefix not in scope["path"]:
            return Match.NONE, {}
        return super().matches(scope)


class _ParsedRequest(Request):
    """Hands the parsed body to FastAPI, which would otherwise read and parse it leniently."""

    def __init__(self, request: Request, body: bytes, value: JsonValue) -> None:
        super().__init__(request.scope, request.receive)
        self._strict_body = body
        self._strict_value = value

    async def body(self) -> bytes:
        return self._strict_body

    async def json(self) -> JsonValue:
        return self._strict_value


def _with_json(
    handle: Callable[[Request], Coroutine[Any, Any, Response]],
    limit: LimitClass,
    *,
    is_for_accounts: bool,
) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    """The handler behind a body that is read and parsed here."""

    async def handle_json(request: Request) -> Response:
        most = max_body_size(request)
        begun = time.monotonic()
        body = await read_body(request, most if is_for_accounts else min(most, STRANGERS_BODY_SIZE))
        _wait_for_client(time.monotonic() - begun)
        value = parse_json(body) if body else None
        try:
            return await handle(_ParsedRequest(request, body, value))
        except NotFound as problem:
            problem.subject = find_subject(value)
            raise

    async def handle_and_count(request: Request) -> Response:
        try:
            return await handle_json(request)
        except RateLimited:
            raise
        except (Problem, RequestValidationError):
            await count_refusal(request, limit)
            raise

    return handle_and_count


def _is_signed_in(dependant: Dependant) -> bool:
    """Whether the route asks who is calling."""
    return isinstance(dependant.call, SecurityBase) or any(
        _is_signed_in(part) for part in dependant.dependencies
    )


def check_path(request: Request) -> None:
    """U+0000 names nothing: PostgreSQL refuses it, SQLite would not.

    Raises:
        NotFound: not_found
    """
    if "\0" in request.scope["path"]:
        raise NotFound


def check_query(query: bytes) -> None:
    """Each parameter once, in UTF-8, without U+0000.

    Raises:
        QueryMalformed: query_malformed
    """
    if not query:
        return
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MAX_QUERY_FIELDS,
        )
    except ValueError:
        fault = FieldError("query", "This is not UTF-8, or too many parameters")
        raise QueryMalformed(errors=[fault]) from None
    seen: set[str] = set()
    for name, value in pairs:
        if name in seen:
            raise QueryMalformed(errors=[FieldError("query", "A parameter is given twice")])
        if "\0" in name or "\0" in value:
            raise QueryMalformed(errors=[FieldError("query", "U+0000 is not allowed")])
        seen.add(name)


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, while it has at most `limit` bytes, is in time and declared as UTF-8 JSON.

    Raises:
        UnsupportedMediaType: unsupported_media_type
        TooLarge: too_large
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > len(str(limit)) or int(declared) > limit):
        raise TooLarge(headers=CLOSE)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise TooLarge(headers=CLOSE)
                chunks.append(chunk)
    except TimeoutError:
        raise BodyTooSlow(headers=CLOSE) from None
    if size or "content-type" in request.headers:
        _require_json_type(request)
    return b"".join(chunks)


def refuse_form(request: Request) -> None:
    """For a route without a body: what pages of other sites can send without asking (forms, plain text).

    Raises:
        UnsupportedMediaType: unsupported_media_type
    """
    headers = request.headers
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    if has_body or "content-type" in headers:
        _require_json_type(request)


def _wait_for_client(seconds: float | None = None) -> None:
    """What the client takes to send is not held against us; None: it sends while the handler runs."""
    call = current_call()
    if call is None:
        return
    if seconds is None:
        call.end()
    else:
        call.postpone(seconds)


def max_body_size(request: Request) -> int:
    """The limit of this app, in bytes; set by `install_edge`."""
    return getattr(request.app.state, "max_body_size", DEFAULT_MAX_BODY_SIZE)


def _require_json_type(request: Request) -> None:
    declared = request.headers.getlist("content-type")
    if len(declared) != 1 or not _JSON_TYPE.fullmatch(declared[0].strip()):
        raise UnsupportedMediaType
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("The body must not be compressed")
