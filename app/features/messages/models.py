"""The tables of messages. A message's row stays for ever; deleting it for everyone empties its body."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.infra.cipher.places import sealed
from app.infra.database.columns import BigId, Json
from app.infra.database.tables import Row
from app.kernel.ids import ChatId, MessageId, UserId

_LIVE = text("deleted_at IS NULL")
_COUNTABLE = text("deleted_at IS NULL AND type <> 'service'")


class MessageRow(Row):
    """`seq` is that of the message's `new_message` update, for ever; ids grow with it inside a chat.

    `body` is sealed JSON: the text, its entities and what else is personal. `forward` and `service`
    are in the clear and hold references only. `fingerprint` is keyed: it tells whether a repeated
    send has the same original body without telling that body.
    """

    __tablename__ = "messages"
    __table_args__ = (
        UniqueConstraint("sender_id", "client_message_id"),
        UniqueConstraint("chat_id", "seq"),
        Index("ix_messages_history", "chat_id", "id", sqlite_where=_LIVE, postgresql_where=_LIVE),
        # Covers the count of unread messages: entries are read, rows are not.
        Index(
            "ix_messages_countable",
            "chat_id",
            "id",
            "sender_id",
            sqlite_where=_COUNTABLE,
            postgresql_where=_COUNTABLE,
        ),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[MessageId] = mapped_column(BigId, primary_key=True)
    chat_id: Mapped[ChatId] = mapped_column(BigInteger, ForeignKey("chats.id"))
    seq: Mapped[int] = mapped_column(BigInteger)
    sender_id: Mapped[UserId] = mapped_column(BigInteger, ForeignKey("users.id"))
    type: Mapped[str]
    body: Mapped[bytes | None] = mapped_column(
        info=sealed("messages", "chat:{chat_id}", revised=True)
    )
    reply_to_id: Mapped[MessageId | None] = mapped_column(BigInteger)
    forward: Mapped[object | None] = mapped_column(Json)
    service: Mapped[object | None] = mapped_column(Json)
    client_message_id: Mapped[str | None]
    fingerprint: Mapped[bytes | None]
    silent: Mapped[bool]
    created_at: Mapped[datetime]
    edited_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]


class MentionRow(Row):
    """`user_id` is mentioned in a message that exists; gone with the mention or the message."""

    __tablename__ = "message_mentions"

    chat_id: Mapped[ChatId] = mapped_column(BigInteger, ForeignKey("chats.id"), primary_key=True)
    user_id: Mapped[UserId] = mapped_column(BigInteger, ForeignKey("users.id"), primary_key=True)
    message_id: Mapped[MessageId] = mapped_column(
        BigInteger, ForeignKey("messages.id"), primary_key=True, index=True
    )


class HiddenMessageRow(Row):
    """`user_id` deleted this message for themselves alone."""

    __tablename__ = "hidden_messages"

    user_id: Mapped[UserId] = mapped_column(BigInteger, ForeignKey("users.id"), primary_key=True)
    chat_id: Mapped[ChatId] = mapped_column(BigInteger, ForeignKey("chats.id"), primary_key=True)
    message_id: Mapped[MessageId] = mapped_column(
        BigInteger, ForeignKey("messages.id"), primary_key=True, index=True
    )


class EmptiedChatRow(Row):
    """A chat that is deleted, or emptied up to and with the message `upto`, and whose messages show more files than
    one transaction takes away. `after_seq`: how far a job has come; the row goes with the last of them.
    """

    __tablename__ = "emptied_chats"
    __table_args__ = ({"sqlite_with_rowid": False},)

    chat_id: Mapped[ChatId] = mapped_column(
        BigInteger, ForeignKey("chats.id"), primary_key=True, autoincrement=False
    )
    after_seq: Mapped[int] = mapped_column(BigInteger)
    upto: Mapped[MessageId | None] = mapped_column(BigInteger)
