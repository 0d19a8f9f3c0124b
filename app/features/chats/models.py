"""The tables of chats: the chat, who takes part in it, and the links that invite into it."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.infra.cipher.places import sealed
from app.infra.database.columns import BigId
from app.infra.database.tables import Row
from app.kernel.ids import ChatId, FileId, MessageId, UserId

# SQLite uses a partial index only for a query that says the same words, or compares the column.
_IS_ADMIN = text("role IN ('owner', 'admin')")
_IS_COUNT_DUE = text("count_due_at IS NOT NULL")
_OWN = sealed("personal", "chat:{id}", revised=True)


class ChatRow(Row):
    """A chat. It changes only under the lock of its scope.

    `title` and `description` are sealed under the chat's key. `permissions` is what plain members may do
    (`policy.Permission`). `history_visible` is what is in force: always true for channels and public groups.
    `pair_key` is `low:high` of a private chat's two users. `last_message_id` is the highest id ever given in
    the chat and, like `last_message_at`, never goes back, whatever is deleted. `count_due_at`: when the
    subscribers of a channel must be told its number of members; NULL: they were told the newest.
    """

    __tablename__ = "chats"
    __table_args__ = (
        UniqueConstraint("pair_key"),
        Index(
            "ix_chats_count_due",
            "count_due_at",
            sqlite_where=_IS_COUNT_DUE,
            postgresql_where=_IS_COUNT_DUE,
        ),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[ChatId] = mapped_column(BigId, primary_key=True, autoincrement=True)
    type: Mapped[str]
    title: Mapped[bytes | None] = mapped_column(info=_OWN)
    description: Mapped[bytes | None] = mapped_column(info=_OWN)
    username: Mapped[str | None]
    permissions: Mapped[int]
    history_visible: Mapped[bool]
    owner_id: Mapped[UserId | None] = mapped_column(BigInteger, ForeignKey("users.id"))
    pair_key: Mapped[str | None]
    # As `users.photo_id`.
    photo_id: Mapped[FileId | None] = mapped_column(BigInteger)
    members_count: Mapped[int]
    count_told_at: Mapped[datetime | None]
    count_due_at: Mapped[datetime | None]
    last_message_id: Mapped[MessageId] = mapped_column(BigInteger, default=0, server_default="0")
    last_message_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]


class ParticipantRow(Row):
    """One user in one chat; the rows of those who left or were banned stay.

    `permissions`: an admin's rights, or what a restricted member may still do. `restricted_until`: when a
    restriction or a ban ends by itself. `joined_seq`: the chat's seq just before the joining: updates above
    it are theirs to see. Messages from `first_visible_id` on are visible while the chat hides its history,
    above `cleared_id` in any case. `last_read_message_id` is never below either, so that counting what is
    unread starts from it alone. `closed_id`: a private chat that I deleted is off my list until a message
    above this one comes; NULL: it is open.
    """

    __tablename__ = "chat_participants"
    __table_args__ = (
        Index(None, "user_id", "chat_id"),
        Index(
            "ix_chat_participants_admins",
            "chat_id",
            sqlite_where=_IS_ADMIN,
            postgresql_where=_IS_ADMIN,
        ),
    )

    chat_id: Mapped[ChatId] = mapped_column(BigInteger, ForeignKey("chats.id"), primary_key=True)
    user_id: Mapped[UserId] = mapped_column(BigInteger, ForeignKey("users.id"), primary_key=True)
    role: Mapped[str]
    permissions: Mapped[int | None]
    restricted_until: Mapped[datetime | None]
    joined_at: Mapped[datetime]
    joined_seq: Mapped[int] = mapped_column(BigInteger)
    first_visible_id: Mapped[MessageId] = mapped_column(BigInteger, default=0, server_default="0")
    cleared_id: Mapped[MessageId] = mapped_column(BigInteger, default=0, server_default="0")
    closed_id: Mapped[MessageId | None] = mapped_column(BigInteger)
    last_read_message_id: Mapped[MessageId] = mapped_column(
        BigInteger, default=0, server_default="0"
    )
    is_pinned: Mapped[bool] = mapped_column(default=False, server_default="0")
    pin_order: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    is_archived: Mapped[bool] = mapped_column(default=False, server_default="0")
    muted_until: Mapped[datetime | None]


class InviteRow(Row):
    """A link into a chat. `uses` counts joinings, exactly: it changes only under the lock of the chat's scope."""

    __tablename__ = "chat_invites"
    __table_args__ = (
        UniqueConstraint("code"),
        Index(None, "chat_id", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    code: Mapped[str]
    chat_id: Mapped[ChatId] = mapped_column(BigInteger, ForeignKey("chats.id"))
    creator_id: Mapped[UserId] = mapped_column(BigInteger, ForeignKey("users.id"))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    max_uses: Mapped[int | None]
    uses: Mapped[int] = mapped_column(default=0, server_default="0")
    revoked_at: Mapped[datetime | None]
