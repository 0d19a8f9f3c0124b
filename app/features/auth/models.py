"""The table of sign-in codes: what is asked for, sent, tried and used."""

from datetime import datetime

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from app.infra.cipher.keyring import SERVER_KEY
from app.infra.cipher.places import sealed
from app.infra.database.columns import BigId
from app.infra.database.tables import Row


class VerificationRow(Row):
    """One request for a code. It counts for the limits from its beginning; it can be used once
    `code_hash` is there, which is after the provider has taken the message.

    `phone` is sealed under the server's key: there may be no user yet. `address_index` and `prefix`
    are blind indexes: what is counted need not be read.
    """

    __tablename__ = "phone_verifications"
    __table_args__ = (
        Index("ix_phone_verifications_phone", "phone_index", "created_at"),
        Index("ix_phone_verifications_address", "address_index", "created_at"),
        Index("ix_phone_verifications_prefix", "prefix", "created_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    public_id: Mapped[str] = mapped_column(unique=True)
    phone: Mapped[bytes] = mapped_column(info=sealed("personal", SERVER_KEY))
    phone_index: Mapped[bytes]
    address_index: Mapped[bytes]
    prefix: Mapped[str]
    code_hash: Mapped[bytes | None]
    attempts: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(index=True)
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    replaced_at: Mapped[datetime | None]
