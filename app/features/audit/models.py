"""The tables of the record: the events in their chain, and how many there were of each name."""

from datetime import datetime

from sqlalchemy import BigInteger, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.infra.cipher.places import sealed
from app.infra.database.columns import BigId
from app.infra.database.tables import Row
from app.kernel.ids import SessionId, UserId

_QUEUED = text("seq IS NULL")


class AuditEventRow(Row):
    """One event, or `count` of them from one source. Inserted without `seq` and `hash` (queued), in
    the transaction of the change that it tells of; the appender sets both, once; then nothing of it
    changes any more.

    `details` is a JSON document as text, because its bytes are hashed. `personal` is sealed under
    the person's key; before sign-in that of the phone number (`phone_id`, see `phones.py`); else the
    server's; whatever ENCRYPT_PERSONAL_DATA says: what is chained cannot be converted.
    """

    __tablename__ = "audit_events"
    __table_args__ = (
        Index("ix_audit_events_queued", "id", sqlite_where=_QUEUED, postgresql_where=_QUEUED),
        Index("ix_audit_events_user", "user_id", "id"),
        Index("ix_audit_events_phone", "phone_id", "id"),
        Index("ix_audit_events_name", "name", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    seq: Mapped[int | None] = mapped_column(BigInteger, unique=True)
    hash: Mapped[bytes | None]
    name: Mapped[str]
    at: Mapped[datetime] = mapped_column(index=True)
    count: Mapped[int]
    user_id: Mapped[UserId | None] = mapped_column(BigInteger)
    session_id: Mapped[SessionId | None] = mapped_column(BigInteger)
    # Stays when its row of `audit_phones` goes, and then leads nowhere.
    phone_id: Mapped[int | None] = mapped_column(BigInteger)
    request_id: Mapped[str | None]
    details: Mapped[str]
    # None: older than the column. See `chain.mac_of`.
    mac: Mapped[bytes | None]
    # Without a person's id under the key of a phone, or the server's.
    personal: Mapped[bytes | None] = mapped_column(
        info=sealed("always", "user:{user_id}", fixed=True)
    )


class AuditPhoneRow(Row):
    """A number for which a code was asked on `day` (days of UTC since 1970), by its blind index."""

    __tablename__ = "audit_phones"
    __table_args__ = (UniqueConstraint("phone_index", "day"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    phone_index: Mapped[bytes]
    day: Mapped[int] = mapped_column(index=True)


class AuditTotalRow(Row):
    """How many events of a name were chained since the server was installed, for metrics."""

    __tablename__ = "audit_totals"

    name: Mapped[str] = mapped_column(primary_key=True)
    total: Mapped[int] = mapped_column(BigInteger)
