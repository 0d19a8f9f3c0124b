"""What routes ask for: the session of this request."""

from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.features.sessions.authenticate import CurrentSession, authenticate
from app.kernel.problems import Unauthenticated
from app.transport.http.dependencies import ServicesDep

_bearer = HTTPBearer(
    auto_error=False,
    bearerFormat="JWT",
    scheme_name="AccessToken",
    description="The `access_token` of `/auth/verify-code` or `/auth/refresh-token`.",
)


async def get_current_session(
    services: ServicesDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> CurrentSession:
    """The session behind `Authorization: Bearer`.

    Raises:
        Unauthenticated: there is no such header.
        TokenRefused: see `authenticate`.
    """
    if credentials is None:
        raise Unauthenticated
    return await authenticate(services, credentials.credentials)


CurrentSessionDep = Annotated[CurrentSession, Depends(get_current_session)]
