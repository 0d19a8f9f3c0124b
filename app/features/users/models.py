"""Tables of people. Every personal field is sealed under its person's own key; look-ups use blind indexes."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.infra.cipher.places import sealed
from app.infra.database.columns import BigId, Json
from app.infra.database.tables import Row
from app.kernel.ids import ChatId, FileId, UserId

_OWN = sealed("personal", "user:{id}", revised=True)
_OWNERS = sealed("personal", "user:{owner_id}", revised=True)


class UserRow(Row):
    """`id` is random below 10^12 and never given out twice: a deleted account's row stays, emptied.

    `phone`, `first_name`, `last_name` and `bio` are sealed. `privacy` holds what differs from the
    defaults of `policy.Privacy`.
    """

    __tablename__ = "users"

    id: Mapped[UserId] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    phone: Mapped[bytes | None] = mapped_column(info=_OWN)
    phone_index: Mapped[bytes | None] = mapped_column(unique=True)
    username: Mapped[str | None]
    first_name: Mapped[bytes] = mapped_column(info=_OWN)
    last_name: Mapped[bytes | None] = mapped_column(info=_OWN)
    bio: Mapped[bytes | None] = mapped_column(info=_OWN)
    language: Mapped[str | None]
    privacy: Mapped[object] = mapped_column(Json)
    # A file that the slice `files` knows as this person's photo; no foreign key, or the tables would form a ring.
    photo_id: Mapped[FileId | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime]
    last_seen_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]


class UsernameRow(Row):
    """The one namespace of users' and chats' usernames. `name_key` is the lower case."""

    __tablename__ = "usernames"
    __table_args__ = (CheckConstraint("(user_id IS NULL) <> (chat_id IS NULL)", name="one_holder"),)

    # Byte order on both databases, so that a prefix is a range of the index.
    name_key: Mapped[str] = mapped_column(
        Text().with_variant(Text(collation="C"), "postgresql"), primary_key=True
    )
    user_id: Mapped[UserId | None] = mapped_column(BigInteger, ForeignKey("users.id"), unique=True)
    # No foreign key: chats stand above this slice. They free the name when they go.
    chat_id: Mapped[ChatId | None] = mapped_column(BigInteger, unique=True)


class UserNameTokenRow(Row):
    """Blind index of every prefix of every word of a user's name."""

    __tablename__ = "user_name_tokens"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012 - SQLAlchemy's API

    token: Mapped[bytes] = mapped_column(primary_key=True)
    user_id: Mapped[UserId] = mapped_column(
        BigInteger, ForeignKey("users.id"), primary_key=True, autoincrement=False, index=True
    )


class ContactRow(Row):
    """`owner_id` keeps `user_id` in the address book, under a name of the owner's own (sealed for the owner)."""

    __tablename__ = "contacts"
    __table_args__ = (
        UniqueConstraint("owner_id", "user_id"),
        Index(None, "owner_id", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    owner_id: Mapped[UserId] = mapped_column(BigInteger, ForeignKey("users.id"))
    user_id: Mapped[UserId] = mapped_column(BigInteger, ForeignKey("users.id"), index=True)
    first_name: Mapped[bytes] = mapped_column(info=_OWNERS)
    last_name: Mapped[bytes | None] = mapped_column(info=_OWNERS)
    created_at: Mapped[datetime]


class BlockRow(Row):
    """`owner_id` has blocked `user_id`."""

    __tablename__ = "blocks"
    __table_args__ = (
        Index(None, "owner_id", "created_at", "user_id"),
        {"sqlite_with_rowid": False},
    )

    owner_id: Mapped[UserId] = mapped_column(
        BigInteger, ForeignKey("users.id"), primary_key=True, autoincrement=False
    )
    user_id: Mapped[UserId] = mapped_column(
        BigInteger, ForeignKey("users.id"), primary_key=True, autoincrement=False, index=True
    )
    created_at: Mapped[datetime]


class PhoneLookupRow(Row):
    """A number that `user_id` asked about on `day` (days since 1970): what the daily budget counts."""

    __tablename__ = "phone_lookups"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012 - SQLAlchemy's API

    user_id: Mapped[UserId] = mapped_column(
        BigInteger, ForeignKey("users.id"), primary_key=True, autoincrement=False
    )
    day: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    phone_index: Mapped[bytes] = mapped_column(primary_key=True)


class SpentLookupsRow(Row):
    """How many numbers deleted accounts of one phone had asked about on `day`: the next one has spent them already."""

    __tablename__ = "spent_lookups"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012 - SQLAlchemy's API

    owner_index: Mapped[bytes] = mapped_column(primary_key=True)
    day: Mapped[int] = mapped_column(index=True)
    spent: Mapped[int]
