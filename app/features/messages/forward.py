"""Forwarding: up to 100 messages of one chat into another, all or none of them.

Both chats are locked: nothing leaves a chat behind the caller's removal from it, and the files of what is
forwarded cannot end meanwhile. Their bytes are not copied: the new message shows the same files.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from app.features.chats.errors import ChatNotFound
from app.features.chats.policy import ChatType, Membership
from app.features.chats.render import open_field
from app.features.messages.access import require_writing
from app.features.messages.append import NewMessage, append_messages
from app.features.messages.attachments import require_attached
from app.features.messages.content import Content, canonical_body, find_content
from app.features.messages.errors import ClientMessageIdReused, MessageNotFound
from app.features.messages.forwards import ForwardOrigin, parse_origin
from app.features.messages.policy import MEDIA_TYPES, SERVICE, may_read
from app.features.messages.queries import (
    MessageRecord,
    find_hidden,
    find_seen,
    load_headings,
    load_memberships,
    load_records,
)
from app.features.messages.render import Rendered, load_messages
from app.features.messages.send import Sent, is_repeat
from app.features.updates.log import lock_scopes
from app.infra.cipher.keyring import Keyring, chat_key
from app.infra.database.database import Database
from app.infra.database.errors import UniqueViolation
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, MessageId, UserId
from app.kernel.scopes import chat_scope


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardDraft:
    """Which messages of `source_id` go to `chat_id`, in this order; each id once, one client id each or none."""

    chat_id: ChatId
    source_id: ChatId
    message_ids: Sequence[MessageId]
    client_message_ids: Sequence[str] = ()
    silent: bool = False

    def list_keys(self) -> list[tuple[MessageId, str | None]]:
        """Each message with its client id."""
        if not self.client_message_ids:
            return [(message_id, None) for message_id in self.message_ids]
        return list(zip(self.message_ids, self.client_message_ids, strict=True))

    def canonical(self, message_id: MessageId) -> bytes:
        """What a repeat must have in common with the first forward, beside the chat."""
        return canonical_body(None, reply_to_id=None, forward_of=(self.source_id, message_id))


async def forward_messages(
    db: Database, keyring: Keyring, *, sender_id: UserId, draft: ForwardDraft
) -> list[Sent]:
    """Forward the messages, or find what was forwarded under the same client ids, in their order.

    Raises:
        chat_not_found: the sender is not in one of the chats.
        message_not_found: one of the messages is not visible to the sender in the source chat.
        file_not_found: the files of one of the messages have ended with the account of who uploaded them.
        not_allowed: no right to write or to send media, or blocked by the other one of a private chat.
        peer_blocked: the sender has blocked the other one of a private chat.
        client_message_id_reused: one of them stands for something else.
    """

    async def work(tx: Tx) -> list[Sent]:
        return await _forward(tx, keyring, sender_id, draft)

    try:
        return await db.write(work)
    except UniqueViolation:
        # One of the client ids raced into another chat, under another lock. That row is there now, and decides.
        return await db.write(work)


async def _forward(tx: Tx, keyring: Keyring, sender_id: UserId, draft: ForwardDraft) -> list[Sent]:
    log = await lock_scopes(tx, [chat_scope(draft.chat_id), chat_scope(draft.source_id)])
    memberships = await load_memberships(
        tx, [(draft.chat_id, sender_id), (draft.source_id, sender_id)]
    )
    target = memberships.get((draft.chat_id, sender_id))
    source = memberships.get((draft.source_id, sender_id))
    if target is None:
        raise ChatNotFound
    repeats = await _find_repeats(tx, keyring, sender_id, draft)
    fresh = [key for key in draft.list_keys() if key[0] not in repeats]
    views: dict[MessageId, Rendered] = {}
    if fresh:
        # What was forwarded already may be asked for again by someone who has left its source.
        if source is None:
            raise ChatNotFound
        records = await _load_originals(tx, source, [message_id for message_id, _ in fresh])
        await _require_writing(tx, target, records.values())
        contents = await _open_originals(tx, keyring, source, list(records.values()))
        attached = await require_attached(tx, records.values())
        messages = [
            NewMessage(
                chat=target.chat,
                sender_id=sender_id,
                content=contents[message_id],
                type=records[message_id].type,
                origin=_find_origin(source, records[message_id]),
                client_message_id=client_message_id,
                canonical=draft.canonical(message_id),
                silent=draft.silent,
                attachments=attached.get(message_id, ()),
            )
            for message_id, client_message_id in fresh
        ]
        written = await append_messages(tx, log, keyring, messages)
        views = {key[0]: view for key, view in zip(fresh, written, strict=True)}
    repeated = await load_messages(tx, keyring, set(repeats.values()))
    return [
        Sent(views[message_id], created=True)
        if message_id in views
        else Sent(repeated[repeats[message_id]], created=False)
        for message_id in draft.message_ids
    ]


async def _find_repeats(
    tx: Tx, keyring: Keyring, sender_id: UserId, draft: ForwardDraft
) -> dict[MessageId, MessageId]:
    """Original -> the message that an earlier call made of it under the same client id."""
    keys = [(sender_id, client_id) for _, client_id in draft.list_keys() if client_id is not None]
    seen = await find_seen(tx, keys)
    chat_keys = await keyring.load(tx, {chat_key(send.chat_id) for send in seen.values()})
    repeats: dict[MessageId, MessageId] = {}
    for message_id, client_id in draft.list_keys():
        send = None if client_id is None else seen.get((sender_id, client_id))
        if send is None:
            continue
        canonical = draft.canonical(message_id)
        if not is_repeat(send, chat_keys, chat_id=draft.chat_id, canonical=canonical):
            raise ClientMessageIdReused
        repeats[message_id] = send.message_id
    return repeats


async def _load_originals(
    tx: Tx, source: Membership, message_ids: Sequence[MessageId]
) -> Mapping[MessageId, MessageRecord]:
    records = await load_records(tx, message_ids)
    hidden = await find_hidden(
        tx, [(source.user_id, source.chat.id, message_id) for message_id in message_ids]
    )
    for message_id in message_ids:
        record = records.get(message_id)
        if (
            record is None
            or record.chat_id != source.chat.id
            or record.deleted_at is not None
            or record.type == SERVICE
            or not may_read(source, message_id, is_hidden=(source.user_id, message_id) in hidden)
        ):
            raise MessageNotFound
    return records


async def _require_writing(
    tx: Tx, target: Membership, originals: Collection[MessageRecord]
) -> None:
    media = [record.type in MEDIA_TYPES for record in originals]
    await require_writing(tx, target, text=not all(media), media=any(media))


async def _open_originals(
    tx: Tx, keyring: Keyring, source: Membership, records: Sequence[MessageRecord]
) -> dict[MessageId, Content]:
    """What will be said again. A channel's post takes the channel's title along, should readers not know it."""
    key = await keyring.require(tx, chat_key(source.chat.id))
    title: str | None = None
    if source.chat.type is ChatType.CHANNEL:
        heading = (await load_headings(tx, [source.chat.id]))[source.chat.id]
        title = open_field(key, "title", heading.id, heading.title, heading.revision)
    contents: dict[MessageId, Content] = {}
    for record in records:
        original = record.body and find_content(key, record.id, record.body, record.revision)
        if not original:
            raise MessageNotFound
        name = title if record.forward is None else original.forward_name
        contents[record.id] = Content(original.text, original.entities, name)
    return contents


def _find_origin(source: Membership, record: MessageRecord) -> ForwardOrigin:
    """The first of the line: forwarding a forward names who wrote it, not who passed it on."""
    is_post = source.chat.type is ChatType.CHANNEL
    return parse_origin(record.forward) or ForwardOrigin(
        source.chat.id, record.id, None if is_post else record.sender_id, record.created_at
    )
