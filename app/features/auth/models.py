"""Tables of signing in: codes that are asked for, sent, tried and used, and the second factor."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.infra.cipher.keyring import SERVER_KEY
from app.infra.cipher.places import sealed
from app.infra.database.columns import BigId
from app.infra.database.tables import Row
from app.kernel.ids import SessionId, UserId


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


_SECRET = sealed("always", "user:{user_id}", revised=True)


class SecondFactorRow(Row):
    """What a person set beside the phone. It is on while `password_hash` or `totp_secret` is there;
    all three secrets are sealed under the person's key.

    `totp_step`: the last time step that was used; no older one counts. `pending_secret` waits for
    its first code. `reset_at`: when somebody who has the phone alone may remove it all.
    """

    __tablename__ = "second_factors"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012 - SQLAlchemy's API

    user_id: Mapped[UserId] = mapped_column(
        BigInteger, ForeignKey("users.id"), primary_key=True, autoincrement=False
    )
    password_hash: Mapped[bytes | None] = mapped_column(info=_SECRET)
    totp_secret: Mapped[bytes | None] = mapped_column(info=_SECRET)
    totp_step: Mapped[int | None] = mapped_column(BigInteger)
    pending_secret: Mapped[bytes | None] = mapped_column(info=_SECRET)
    pending_until: Mapped[datetime | None]
    changed_at: Mapped[datetime]
    reset_asked_at: Mapped[datetime | None]
    reset_at: Mapped[datetime | None]


class RecoveryCodeRow(Row):
    """A code that stands in for the second factor once; its row is deleted by its use."""

    __tablename__ = "recovery_codes"

    hash: Mapped[bytes] = mapped_column(primary_key=True)
    user_id: Mapped[UserId] = mapped_column(BigInteger, ForeignKey("users.id"), index=True)


class PasswordTokenRow(Row):
    """A sign-in between its two factors: the phone is proved, nothing is open yet."""

    __tablename__ = "password_tokens"

    hash: Mapped[bytes] = mapped_column(primary_key=True)
    user_id: Mapped[UserId] = mapped_column(BigInteger, ForeignKey("users.id"), index=True)
    # Under the key of the person.
    device_name: Mapped[bytes | None] = mapped_column(info=sealed("always", "", brief=True))
    attempts: Mapped[int]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)


class FactorTryRow(Row):
    """A try at a second factor, counted before it is looked at; `session_id` where a signed-in
    device confirms.
    """

    __tablename__ = "factor_tries"
    __table_args__ = (
        Index(None, "user_id", "created_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    user_id: Mapped[UserId] = mapped_column(BigInteger, ForeignKey("users.id"))
    address_index: Mapped[bytes]
    session_id: Mapped[SessionId | None] = mapped_column(BigInteger)
    was_right: Mapped[bool]
    created_at: Mapped[datetime] = mapped_column(index=True)
