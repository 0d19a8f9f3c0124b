"""Tables of signed-in devices and of their tokens, which are stored as SHA-256 only."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from app.infra.cipher.places import sealed
from app.infra.database.columns import BigId
from app.infra.database.tables import Row
from app.kernel.ids import ChatId, SessionId, UserId

_LIVE = text("revoked_at IS NULL")


class SessionRow(Row):
    """A signed-in device. It lives while `revoked_at` is empty and `idle_expires_at` is ahead,
    which every refresh moves on, but never beyond `expires_at`.

    `authenticated_at`: when its holder last proved to be the owner, by signing in or confirming;
    empty counts as long ago. `place`: the network of its last sign-in or refresh, in words.
    """

    __tablename__ = "sessions"
    __table_args__ = (
        Index("ix_sessions_live", "user_id", "id", sqlite_where=_LIVE, postgresql_where=_LIVE),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[SessionId] = mapped_column(BigId, primary_key=True)
    user_id: Mapped[UserId] = mapped_column(BigInteger)
    kind: Mapped[str]
    device_name: Mapped[bytes | None] = mapped_column(info=sealed("personal", "user:{user_id}"))
    created_at: Mapped[datetime]
    last_used_at: Mapped[datetime]
    idle_expires_at: Mapped[datetime] = mapped_column(index=True)
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    authenticated_at: Mapped[datetime | None]
    place: Mapped[bytes | None] = mapped_column(
        info=sealed("personal", "user:{user_id}", revised=True)
    )


class RefreshTokenRow(Row):
    """One generation of a session's refresh tokens. `successor` is the next one, sealed, for a
    client whose answer was lost; it is emptied when that one is used. After its use a row is kept
    until `expires_at` to recognise a replay.
    """

    __tablename__ = "refresh_tokens"

    hash: Mapped[bytes] = mapped_column(primary_key=True)
    session_id: Mapped[SessionId] = mapped_column(BigInteger, ForeignKey("sessions.id"), index=True)
    parent_hash: Mapped[bytes | None]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    used_at: Mapped[datetime | None]
    # Under the key of the session's user.
    successor: Mapped[bytes | None] = mapped_column(info=sealed("always", "", brief=True))


class TicketRow(Row):
    """A single-use key to a socket: to `/ws/`, or with `chat_id` to that chat's."""

    __tablename__ = "ws_tickets"

    hash: Mapped[bytes] = mapped_column(primary_key=True)
    session_id: Mapped[SessionId] = mapped_column(BigInteger, ForeignKey("sessions.id"), index=True)
    chat_id: Mapped[ChatId | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)


class RevocationRow(Row):
    """What workers poll: an ended session whose access tokens may still be in their time."""

    __tablename__ = "revocations"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012 - SQLAlchemy's API

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    session_id: Mapped[SessionId] = mapped_column(BigInteger, ForeignKey("sessions.id"))
    revoked_at: Mapped[datetime] = mapped_column(index=True)
