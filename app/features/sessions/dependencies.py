"""What routes ask for: the session of this request."""

from typing import Annotated, cast

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import HTTPConnection, Request

from app.features.sessions.authenticate import CurrentSession, authenticate
from app.infra.services import Services
from app.kernel.ids import UserId
from app.kernel.problems import Problem, Unauthenticated, Unavailable
from app.transport.http.dependencies import ServicesDep

_FOUND = "messenger.session"
_bearer = HTTPBearer(
    auto_error=False,
    bearerFormat="JWT",
    scheme_name="AccessToken",
    description="The `access_token` of `/auth/verify-code` or `/auth/refresh-token`.",
)


async def get_current_session(
    request: Request,
    services: ServicesDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> CurrentSession:
    """The session behind `Authorization: Bearer`.

    Raises:
        Unauthenticated: there is no such header.
        TokenRefused: see `authenticate`.
    """
    found = cast("CurrentSession | None", request.scope.get(_FOUND))
    if found is not None:
        return found
    if credentials is None:
        raise Unauthenticated
    session = await authenticate(services, credentials.credentials)
    request.scope[_FOUND] = session
    return session


class SessionCallerFinder:
    """Who is calling, for limits. The session that it finds is that of the request."""

    async def find_caller(self, services: Services, connection: HTTPConnection) -> UserId | None:
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
        except Problem:
            return None
        return session.user_id


CurrentSessionDep = Annotated[CurrentSession, Depends(get_current_session)]
