"""Who may see the files of messages: whoever may see the message. And telling them of what changes later."""

from collections.abc import Awaitable, Callable, Sequence

from app.features.chats.access import find_chat
from app.features.files.uses import drop_ended_uses
from app.features.messages.access import reads_any_with
from app.features.messages.attachments import MESSAGE
from app.features.messages.edit import MESSAGE_EDITED
from app.features.messages.queries import find_chats_of, load_records
from app.features.updates.log import ScopeLog, lock_scopes
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.ids import ChatId, FileId, MessageId, UserId
from app.kernel.scopes import chat_scope

# The lock of a chat is held for this many updates.
_BATCH = 100


class MessageAudience:
    """Answers `files.rules.FileAudience`."""

    kind = MESSAGE

    async def is_shown_to(self, tx: Tx, viewer_id: UserId, file_id: FileId) -> bool:
        """As the Protocol: by the rule by which messages are read."""
        return await reads_any_with(tx, viewer_id, file_id)

    async def tell_processed(self, services: Services, subject_ids: Sequence[int]) -> None:
        """As the Protocol: one `message_edited` a message, chat by chat."""
        await _in_each_chat(services, subject_ids, _tell)

    async def drop_ended(self, services: Services, subject_ids: Sequence[int]) -> None:
        """As the Protocol, in the same way; a message of nothing but such a file keeps its words and its place."""
        await _in_each_chat(services, subject_ids, _drop)


async def _in_each_chat(
    services: Services,
    subject_ids: Sequence[int],
    work: Callable[[Tx, ChatId, Sequence[MessageId]], Awaitable[None]],
) -> None:
    message_ids = {MessageId(it) for it in subject_ids}
    chats = await services.db.read(lambda tx: find_chats_of(tx, message_ids))
    by_chat: dict[ChatId, list[MessageId]] = {}
    for message_id in sorted(chats):
        by_chat.setdefault(chats[message_id], []).append(message_id)
    for chat_id, ids in by_chat.items():
        for start in range(0, len(ids), _BATCH):
            batch = ids[start : start + _BATCH]
            await services.db.write(
                lambda tx, chat_id=chat_id, batch=batch: work(tx, chat_id, batch)
            )


async def _tell(tx: Tx, chat_id: ChatId, message_ids: Sequence[MessageId]) -> None:
    """Nothing for a message or chat that was deleted meanwhile. The words stay: `edited_at` does too."""
    log = await lock_scopes(tx, [chat_scope(chat_id)])
    await _append_edited(tx, log, chat_id, message_ids)


async def _drop(tx: Tx, chat_id: ChatId, message_ids: Sequence[MessageId]) -> None:
    log = await lock_scopes(tx, [chat_scope(chat_id)])
    dropped = await drop_ended_uses(tx, MESSAGE, message_ids)
    await _append_edited(tx, log, chat_id, [MessageId(it) for it in sorted(dropped)])


async def _append_edited(
    tx: Tx, log: ScopeLog, chat_id: ChatId, message_ids: Sequence[MessageId]
) -> None:
    if not message_ids or await find_chat(tx, chat_id) is None:
        return
    records = await load_records(tx, message_ids)
    for message_id in message_ids:
        record = records.get(message_id)
        if record is not None and record.deleted_at is None:
            log.append(chat_scope(chat_id), MESSAGE_EDITED, subject_id=message_id)
