"""Editing one's own text or caption. The earlier text is gone: no part of the API shows it."""

from collections.abc import Mapping, Sequence
from typing import cast

from app.features.chats.errors import MemberNotFound
from app.features.chats.policy import Membership
from app.features.messages.access import get_message, require_writing
from app.features.messages.content import (
    Content,
    check_caption,
    check_content,
    find_content,
    seal_content,
)
from app.features.messages.errors import MessageNotFound
from app.features.messages.mentions import list_text_mentions, open_directory
from app.features.messages.models import MessageRow
from app.features.messages.policy import MEDIA_TYPES, may_edit
from app.features.messages.queries import (
    MessageRecord,
    delete_mentions,
    find_chats_of,
    insert_mentions,
    set_body,
)
from app.features.messages.render import Rendered, render_messages
from app.features.updates.log import lock_scopes
from app.infra.cipher.keyring import Keyring, chat_key
from app.infra.cipher.revisions import raise_revision
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import MessageId, UserId
from app.kernel.problems import Forbidden
from app.kernel.scopes import chat_scope

MESSAGE_EDITED = "message_edited"


async def edit_message(
    db: Database,
    keyring: Keyring,
    *,
    editor_id: UserId,
    message_id: MessageId,
    text: str | None,
    entities: Sequence[Mapping[str, object]] | None,
) -> Rendered:
    """Put a new text or caption in place of the old one; without `text` the old one gets new entities.

    A new text without entities has none; an empty caption is none. Attachments stay as they are. What
    changes nothing makes no update.

    Raises:
        message_not_found: it is not visible to the editor, or deleted.
        not_allowed: it is not the editor's own text, or they may no longer write there.
        peer_blocked: the editor has blocked the other one of a private chat.
        member_not_found: a new `text_mention` of somebody who is not in the chat.
        message_empty, message_too_long, entities_invalid: see `check_content`.
        caption_too_long: see `check_caption`.
    """

    async def work(tx: Tx) -> Rendered:
        chat_id = (await find_chats_of(tx, [message_id])).get(message_id)
        if chat_id is None:
            raise MessageNotFound
        log = await lock_scopes(tx, [chat_scope(chat_id)])
        record, membership = await get_message(tx, editor_id, message_id)
        if record.deleted_at is not None or record.body is None:
            raise MessageNotFound
        await _require_editing(tx, record, membership)
        key = await keyring.require(tx, chat_key(chat_id))
        old = find_content(key, message_id, record.body, record.revision)
        if old is None:
            raise MessageNotFound
        new = _make_content(record, old, text, entities)
        is_changed = (new.text, list(new.entities)) != (old.text, list(old.entities))
        if is_changed:
            await _move_mentions(tx, record, old, new)
            revision = await raise_revision(tx, MessageRow, message_id)
            body = seal_content(key, message_id, new, encrypt=keyring.messages, revision=revision)
            await set_body(tx, message_id, body)
            record = record._replace(body=body, edited_at=tx.now, revision=revision)
        [view] = await render_messages(
            tx, keyring, [record], chats={chat_id: membership.chat}, contents={message_id: new}
        )
        if is_changed:
            content = cast("dict[str, object]", view)
            log.append(chat_scope(chat_id), MESSAGE_EDITED, subject_id=message_id, content=content)
        return view

    return await db.write(work)


async def _require_editing(tx: Tx, record: MessageRecord, membership: Membership) -> None:
    allowed = may_edit(
        membership,
        sender_id=record.sender_id,
        message_type=record.type,
        is_forward=record.forward is not None,
    )
    if not allowed:
        raise Forbidden("You may not edit this message")
    has_media = record.type in MEDIA_TYPES
    await require_writing(tx, membership, text=not has_media, media=has_media)


def _make_content(
    record: MessageRecord,
    old: Content,
    text: str | None,
    entities: Sequence[Mapping[str, object]] | None,
) -> Content:
    check = check_caption if record.type in MEDIA_TYPES else check_content
    if text is None:
        kept = cast("Sequence[Mapping[str, object]]", old.entities)
        return check(old.text or "", kept if entities is None else entities)
    return check(text, entities or [])


async def _move_mentions(tx: Tx, record: MessageRecord, old: Content, new: Content) -> None:
    """Who is mentioned now. Somebody who has left since may stay in the text, nobody new from outside comes in."""
    directory = await open_directory(tx, [(record.chat_id, new)])
    if directory.names_strangers(record.chat_id, new, known=list_text_mentions(old)):
        raise MemberNotFound
    mentioned = directory.list_mentioned(record.chat_id, new, by=record.sender_id)
    await delete_mentions(tx, record.id)
    await insert_mentions(tx, [(record.chat_id, user_id, record.id) for user_id in mentioned])
