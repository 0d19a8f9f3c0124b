"""Fresh authentication: what a thief of an unlocked phone or of a token must not do is asked for
again (OWASP ASVS 5.0, 7.5.1).

A session is fresh for FRESH_MINUTES after its sign-in and after each `POST /auth/confirm`. Where a
second factor is set, both ask for it, so a fresh session has proved it.
"""

from datetime import timedelta
from typing import Annotated

from fastapi import Depends
from sqlalchemy import select, update

from app.features.sessions.authenticate import CurrentSession
from app.features.sessions.dependencies import CurrentSessionDep
from app.features.sessions.errors import FreshAuthenticationRequired, TokenRefused
from app.features.sessions.models import SessionRow
from app.infra.database.tx import Tx
from app.kernel.ids import SessionId
from app.transport.http.dependencies import ServicesDep


async def get_fresh_session(services: ServicesDep, session: CurrentSessionDep) -> CurrentSession:
    """The session of this request, if its holder has proved to be the owner lately.

    Raises:
        fresh_authentication_required, token_invalid
    """
    minutes = services.settings.two_step.fresh_minutes
    await services.db.read(
        lambda tx: require_fresh(tx, session_id=session.session_id, minutes=minutes)
    )
    return session


FreshSessionDep = Annotated[CurrentSession, Depends(get_fresh_session)]
"""For routes of sensitive changes, in place of `CurrentSessionDep`."""


async def require_fresh(tx: Tx, *, session_id: SessionId, minutes: int) -> None:
    """As `get_fresh_session`, inside the transaction of the change."""
    row = await tx.first(
        select(SessionRow.authenticated_at).where(
            SessionRow.id == session_id, SessionRow.revoked_at.is_(None)
        )
    )
    if row is None:
        raise TokenRefused
    if row.authenticated_at is None or tx.now - row.authenticated_at > timedelta(minutes=minutes):
        raise FreshAuthenticationRequired


async def freshen(tx: Tx, *, session_id: SessionId) -> None:
    """Its holder has just proved to be the owner."""
    await tx.execute(
        update(SessionRow).where(SessionRow.id == session_id).values(authenticated_at=tx.now)
    )
