"""What routes ask for: the session of this request."""

from typing import Annotated, cast

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import HTTPConnection, Request

from app.features.sessions.authenticate import CurrentSession, authenticate
from app.features.sessions.cookies import CookieName, find_cookie
from app.features.sessions.csrf import require_csrf_token, require_own_page
from app.features.sessions.errors import RefreshTokenInvalid
from app.features.sessions.refresh import find_refreshable_session
from app.infra.services import Services
from app.kernel.ids import SessionId, UserId
from app.kernel.problems import Problem, Unauthenticated, Unavailable
from app.transport.http.dependencies import ServicesDep
from app.transport.http.limits import for_accounts

_FOUND = "messenger.session"
_bearer = HTTPBearer(
    auto_error=False,
    bearerFormat="JWT",
    scheme_name="AccessToken",
    description="The `access_token` of `/auth/verify-code` or `/auth/refresh-token`. Browsers may have"
    " it in a cookie instead, see `X-Auth-Mode` of `/auth/verify-code`.",
)


@for_accounts
async def get_current_session(
    request: Request,
    services: ServicesDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> CurrentSession:
    """The session behind `Authorization: Bearer`, else behind the cookie of a browser.

    Raises:
        Unauthenticated: there is neither.
        TokenRefused: see `authenticate`.
        OriginRefused, CsrfRefused: only by cookie, and only for what may change something.
    """
    found = cast("CurrentSession | Problem | None", request.scope.get(_FOUND))
    if isinstance(found, Problem):
        raise found
    if found is not None:
        return found
    try:
        session = await _find_session(services, request, credentials)
    except Problem as problem:
        request.scope[_FOUND] = problem
        raise
    request.scope[_FOUND] = session
    return session


async def _find_session(
    services: Services, request: Request, credentials: HTTPAuthorizationCredentials | None
) -> CurrentSession:
    if credentials is not None:
        return await authenticate(services, credentials.credentials)
    token = find_cookie(services, request, CookieName.ACCESS)
    if token is None:
        raise Unauthenticated
    require_own_page(services, request)
    session = await authenticate(services, token)
    csrf = find_cookie(services, request, CookieName.CSRF)
    require_csrf_token(services, request, session_id=session.session_id, cookie=csrf)
    return session


class SessionCallerFinder:
    """Who is calling, for limits. The session that it finds is that of the request."""

    async def find_caller(self, services: Services, connection: HTTPConnection) -> UserId | Problem:
        """As `CallerFinder`.

        Raises:
            Unavailable: the database does not answer.
        """
        request = cast("Request", connection)
        try:
            credentials = await _bearer(request)
            session = await get_current_session(request, services, credentials)
        except Unavailable:
            raise
        except Problem as problem:
            return problem
        return session.user_id


async def take_refresh_cookie(services: Services, connection: HTTPConnection) -> str:
    """The refresh token of a browser, once the call is our own page's: a stranger must not even
    make it rotate.

    Raises:
        RefreshTokenInvalid: there is none, or of no living session.
        OriginRefused, CsrfRefused: see there.
    """
    require_own_page(services, connection)
    token = find_cookie(services, connection, CookieName.REFRESH)
    session_id = await find_refreshable_session(services.db, token) if token else None
    if token is None or session_id is None:
        raise RefreshTokenInvalid
    csrf = find_cookie(services, connection, CookieName.CSRF)
    require_csrf_token(services, connection, session_id=session_id, cookie=csrf)
    return token


async def get_csrf_session(
    request: Request,
    services: ServicesDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> SessionId:
    """As `get_current_session`; a browser whose access token is over needs the CSRF token to refresh it.

    Raises:
        Unauthenticated, TokenRefused: see there.
    """
    try:
        return (await get_current_session(request, services, credentials)).session_id
    except Unauthenticated:
        token = find_cookie(services, request, CookieName.REFRESH)
        if credentials is not None or token is None:
            raise
        session_id = await find_refreshable_session(services.db, token)
        if session_id is None:
            raise
        return session_id


CsrfSessionDep = Annotated[SessionId, Depends(get_csrf_session)]
CurrentSessionDep = Annotated[CurrentSession, Depends(get_current_session)]
