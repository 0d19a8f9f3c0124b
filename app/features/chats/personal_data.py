"""What chats keep about a person: their memberships, which end with the account, and are exported."""

from collections.abc import Sequence

from sqlalchemy import select

from app.features.chats.access import (
    CHAT_COLUMNS,
    CURRENT,
    PARTICIPANT_COLUMNS,
    membership_from_row,
)
from app.features.chats.changes import Tools
from app.features.chats.depart import depart, take_photo_down
from app.features.chats.models import ChatRow, ParticipantRow
from app.features.chats.queries import CHAT_REVISION
from app.features.chats.render import open_field
from app.features.files.photos import list_shown
from app.infra.cipher.keyring import Keyring, chat_key
from app.infra.database.database import LONG_SECONDS
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.clock import format_time
from app.kernel.ids import ChatId, UserId
from app.transport.personal_data import Leaver, Page, Section, in_pages

_BATCH = 100


class ChatsPersonalData:
    """Answers `transport.personal_data.PersonalData`."""

    async def forget(self, tx: Tx, services: Services, leaver: Leaver) -> None:
        """Nothing at once: others must be told, chat by chat."""

    async def erase(self, services: Services, leaver: Leaver) -> None:
        """Out of every chat, each in a transaction of its own; before that what they uploaded as its photo."""
        tools = Tools.of(services)
        if not leaver.keep_messages:
            await _take_photos_down(services, tools, leaver.user_id)
        after = ChatId(0)
        while True:
            chat_ids = await services.db.read(
                lambda tx, after=after: _list_current(tx, leaver.user_id, after),
                timeout_seconds=LONG_SECONDS,
            )
            for chat_id in chat_ids:
                await services.db.write(
                    lambda tx, chat_id=chat_id: depart(
                        tx,
                        tools,
                        user_id=leaver.user_id,
                        chat_id=chat_id,
                        keep_messages=leaver.keep_messages,
                    ),
                    timeout_seconds=LONG_SECONDS,
                )
            if len(chat_ids) < _BATCH:
                return
            after = chat_ids[-1]

    def export(self, services: Services, user_id: UserId) -> Sequence[Section]:
        """My memberships, past ones too: of a chat that I am not in any more only that I was in it."""
        pages = in_pages(services.db, lambda tx, after: _page(tx, services.keyring, user_id, after))
        return [Section("chats", pages)]


async def _take_photos_down(services: Services, tools: Tools, user_id: UserId) -> None:
    while chat_ids := await services.db.read(
        lambda tx: list_shown(tx, "chat", owner_id=user_id, limit=_BATCH),
        timeout_seconds=LONG_SECONDS,
    ):
        for chat_id in chat_ids:
            await services.db.write(
                lambda tx, chat_id=chat_id: take_photo_down(
                    tx, tools, chat_id=ChatId(chat_id), owner_id=user_id
                ),
                timeout_seconds=LONG_SECONDS,
            )


async def _page(tx: Tx, keyring: Keyring, user_id: UserId, after: int) -> Page:
    statement = (
        select(
            *CHAT_COLUMNS,
            *PARTICIPANT_COLUMNS,
            ChatRow.title,
            CHAT_REVISION,
            ParticipantRow.is_pinned,
            ParticipantRow.is_archived,
            ParticipantRow.muted_until,
        )
        .join(ParticipantRow, ParticipantRow.chat_id == ChatRow.id)
        .where(
            ParticipantRow.user_id == user_id,
            ParticipantRow.chat_id > after,
            ChatRow.deleted_at.is_(None),
        )
        .order_by(ParticipantRow.chat_id)
        .limit(_BATCH)
    )
    rows = await tx.all(statement)
    keys = await keyring.load(tx, {chat_key(row.id) for row in rows})
    items: list[dict[str, object]] = []
    for row in rows:
        membership = membership_from_row(row, now=tx.now)
        is_mine = membership.is_current
        title = open_field(keys.get(chat_key(row.id)), "title", row.id, row.title, row.revision)
        items.append(
            {
                "chat_id": row.id,
                "type": row.type,
                "title": title if is_mine else None,
                "peer_id": membership.peer_id,
                "role": str(membership.role),
                "joined_at": format_time(row.joined_at),
                "last_read_message_id": row.last_read_message_id if is_mine else None,
                "is_pinned": row.is_pinned,
                "is_archived": row.is_archived,
                "muted_until": row.muted_until and format_time(row.muted_until),
            }
        )
    return items, rows[-1].id if len(rows) == _BATCH else None


async def _list_current(tx: Tx, user_id: UserId, after: ChatId) -> list[ChatId]:
    statement = (
        select(ParticipantRow.chat_id)
        .join(ChatRow, ChatRow.id == ParticipantRow.chat_id)
        .where(
            ParticipantRow.user_id == user_id,
            ParticipantRow.chat_id > after,
            ParticipantRow.role.in_(CURRENT),
            ChatRow.deleted_at.is_(None),
        )
        .order_by(ParticipantRow.chat_id)
        .limit(_BATCH)
    )
    return list(await tx.scalars(statement))
