"""Browser mode: the tokens of a session in cookies that no script can read.

`__Host-` cookies are sent over HTTPS only, and no neighbouring subdomain can set them. Over plain
HTTP, outside production alone, they have their plain names.
"""

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Final, Literal

from fastapi import Depends, Header, Request
from starlette.requests import HTTPConnection
from starlette.responses import Response

from app.features.sessions.csrf import make_csrf_token, require_own_page
from app.features.sessions.open import SessionTokens
from app.infra.services import Services
from app.transport.http.answers import ok
from app.transport.http.dependencies import ServicesDep
from app.transport.http.scheme import is_secure

_HOST_PREFIX: Final = "__Host-"


class CookieName(StrEnum):
    """Without its prefix. The page reads `csrf_token`; the others are for us alone."""

    ACCESS = "access_token"
    REFRESH = "refresh_token"
    CSRF = "csrf_token"


def find_cookie(services: Services, connection: HTTPConnection, name: CookieName) -> str | None:
    """The value of the cookie under the name that it has on this line, and under no other."""
    return connection.cookies.get(_full_name(services, connection, name))


class TokenDelivery:
    """How the caller of this request wants its tokens: in the body, or as cookies."""

    def __init__(self, services: Services, request: Request, *, by_cookie: bool) -> None:
        self._services = services
        self._request = request
        self._by_cookie = by_cookie

    def answer(self, tokens: SessionTokens, more: Mapping[str, object] | None = None) -> Response:
        """200 with the tokens and `more`; as cookies the body holds no token."""
        if not self._by_cookie:
            return ok({**render_tokens(tokens), **(more or {})})
        answer = ok({"expires_in": tokens.expires_in, **(more or {})})
        set_cookies(self._services, self._request, answer, tokens)
        return answer


async def get_token_delivery(
    services: ServicesDep,
    request: Request,
    x_auth_mode: Annotated[
        Literal["cookie"] | None,
        Header(
            description="`cookie`: for browsers. The tokens come as HttpOnly cookies and are not in"
            " the body; every call that changes something then carries `X-CSRF-Token` with the"
            " value of the cookie `csrf_token`, or of `GET /auth/csrf`."
        ),
    ] = None,
) -> TokenDelivery:
    """By `X-Auth-Mode`. A page of another origin may sign nobody in here (login CSRF).

    Raises:
        OriginRefused: it tried.
    """
    if x_auth_mode is not None:
        require_own_page(services, request)
    return TokenDelivery(services, request, by_cookie=x_auth_mode is not None)


TokenDeliveryDep = Annotated[TokenDelivery, Depends(get_token_delivery)]


def set_cookies(
    services: Services, connection: HTTPConnection, answer: Response, tokens: SessionTokens
) -> None:
    """Both tokens, and the CSRF token beside them."""
    idle = timedelta(days=services.settings.tokens.refresh_idle_days)
    seconds = int(idle.total_seconds())
    _set(
        services,
        connection,
        answer,
        name=CookieName.ACCESS,
        value=tokens.access_token,
        seconds=tokens.expires_in,
    )
    _set(
        services,
        connection,
        answer,
        name=CookieName.REFRESH,
        value=tokens.refresh_token,
        seconds=seconds,
    )
    set_csrf_cookie(services, connection, answer, make_csrf_token(services, tokens.session_id))


def set_csrf_cookie(
    services: Services, connection: HTTPConnection, answer: Response, token: str
) -> None:
    """Where our page finds the CSRF token, as long as the refresh token lives."""
    idle = timedelta(days=services.settings.tokens.refresh_idle_days)
    _set(
        services,
        connection,
        answer,
        name=CookieName.CSRF,
        value=token,
        seconds=int(idle.total_seconds()),
    )


def clear_cookies(services: Services, connection: HTTPConnection, answer: Response) -> None:
    """Let the browser forget those that it sent."""
    for name in CookieName:
        if find_cookie(services, connection, name) is not None:
            _set(services, connection, answer, name=name, value="", seconds=0)


def render_tokens(tokens: SessionTokens) -> dict[str, object]:
    return {
        "access_token": tokens.access_token,
        "refresh_token": tokens.refresh_token,
        "token_type": "bearer",
        "expires_in": tokens.expires_in,
    }


def _set(
    services: Services,
    connection: HTTPConnection,
    answer: Response,
    *,
    name: CookieName,
    value: str,
    seconds: int,
) -> None:
    answer.set_cookie(
        _full_name(services, connection, name),
        value,
        max_age=seconds,
        path="/",
        secure=_is_strict(services, connection),
        httponly=name is not CookieName.CSRF,
        samesite="lax",
    )


def _full_name(services: Services, connection: HTTPConnection, name: CookieName) -> str:
    return f"{_HOST_PREFIX}{name}" if _is_strict(services, connection) else str(name)


def _is_strict(services: Services, connection: HTTPConnection) -> bool:
    return services.settings.is_production or is_secure(connection.scope)
