"""Sending: texts that wait at the same moment share one transaction and its statements.

A refused or repeated send takes no `seq`. Rights are read after the chat's lock, so that nobody's
message gets in behind their removal. A send with attachments is a group by itself: it locks its files,
behind the chat and in the order of their ids, which the files of several senders would not be in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from app.features.chats.errors import ChatNotFound, MemberNotFound
from app.features.chats.policy import Membership
from app.features.messages.access import judge_writing, list_block_pairs
from app.features.messages.append import NewMessage, append_messages
from app.features.messages.attachments import claim_attachments
from app.features.messages.content import Content, canonical_body
from app.features.messages.errors import ClientMessageIdReused, MessageNotFound
from app.features.messages.mentions import MentionDirectory, open_directory
from app.features.messages.policy import is_visible, visible_floor
from app.features.messages.queries import (
    ReplyTarget,
    SeenSend,
    find_blocks,
    find_hidden,
    find_seen,
    load_memberships,
    load_reply_targets,
)
from app.features.messages.render import Rendered, load_messages
from app.features.updates.log import lock_scopes, try_lock_scopes
from app.infra.cipher.envelope import DataKey
from app.infra.cipher.keyring import Keyring, KeyUnreadable, chat_key
from app.infra.database.committer import BUSY, Busy
from app.infra.database.database import Database
from app.infra.database.errors import UniqueViolation
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, FileId, MessageId, UserId
from app.kernel.problems import Problem
from app.kernel.scopes import chat_scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What somebody wants to say where; `content` is checked. `attachments`: at most 10, each once."""

    chat_id: ChatId
    content: Content
    reply_to_id: MessageId | None = None
    client_message_id: str | None = None
    silent: bool = False
    attachments: Sequence[FileId] = ()

    @property
    def canonical(self) -> bytes:
        """What a repeat must have in common with the first send, beside the chat."""
        return canonical_body(
            self.content,
            reply_to_id=self.reply_to_id,
            forward_of=None,
            attachments=self.attachments,
        )


@dataclass(frozen=True, slots=True)
class Send:
    """One waiting send."""

    keyring: Keyring
    sender_id: UserId
    draft: Draft


@dataclass(frozen=True, slots=True)
class Sent:
    """The message as every viewer sees it; `created` is False for a repeat."""

    message: Rendered
    created: bool


async def send_message(db: Database, keyring: Keyring, *, sender_id: UserId, draft: Draft) -> Sent:
    """Say it, or find what was said under the same client id.

    Raises:
        chat_not_found: the sender is not in the chat.
        not_allowed: no right to write or to send media, or blocked by the other one of a private chat.
        peer_blocked: the sender has blocked the other one of a private chat.
        message_not_found: the message replied to.
        member_not_found: a `text_mention` of somebody who is not in the chat.
        client_message_id_reused: it stands for another body or chat.
        file_not_found, attachments_mixed: see `claim_attachments`.
    """
    send = Send(keyring, sender_id, draft)
    try:
        return await _commit(db, send)
    except UniqueViolation:
        # The same client id raced into another chat, under another lock. That row is there now, and decides.
        return await _commit(db, send)


async def _commit(db: Database, send: Send) -> Sent:
    if not send.draft.attachments:
        return await db.write_grouped(apply_sends, send)

    async def work(tx: Tx) -> Sent:
        [outcome] = await apply_sends(tx, [send], may_wait=True)
        if isinstance(outcome, Problem):
            raise outcome
        # Never busy: whoever is alone waits for the lock.
        return cast("Sent", outcome)

    return await db.write(work)


async def apply_sends(
    tx: Tx, items: Sequence[Send], *, may_wait: bool
) -> Sequence[Sent | Problem | Busy]:
    """All sends of a group, each with its own outcome; more sends do not mean more statements.

    One with attachments is alone, see above; what is wrong with its files is raised.
    """
    lock = lock_scopes if may_wait else try_lock_scopes
    log = await lock(tx, {chat_scope(item.draft.chat_id) for item in items})
    waiting = [item for item in items if log.is_locked(chat_scope(item.draft.chat_id))]
    if not waiting:
        return [ChatNotFound() if may_wait else BUSY for _ in items]
    group = await _load_group(tx, waiting)
    plan = _Plan()
    outcomes = [
        _decide(group, plan, item) if log.is_locked(chat_scope(item.draft.chat_id)) else BUSY
        for item in items
    ]
    keyring = items[0].keyring
    await _claim_attachments(tx, keyring, plan)
    views = await append_messages(tx, log, keyring, plan.messages)
    repeats = {outcome.message_id for outcome in outcomes if isinstance(outcome, _Repeat)}
    repeated = await _load_repeated(tx, keyring, group, repeats)
    return [_finish(outcome, views, repeated) for outcome in outcomes]


@dataclass(slots=True)
class _Group:
    """What the decisions about a group are made from, read after its locks."""

    memberships: Mapping[tuple[ChatId, UserId], Membership]
    seen: Mapping[tuple[UserId, str], SeenSend]
    keys: Mapping[str, DataKey]
    blocks: set[tuple[UserId, UserId]]
    targets: Mapping[MessageId, ReplyTarget]
    hidden: set[tuple[UserId, MessageId]]
    directory: MentionDirectory


@dataclass(slots=True)
class _Plan:
    """What will be written, and at which position each new client id stands."""

    messages: list[NewMessage] = field(default_factory=list[NewMessage])
    taken: dict[tuple[UserId, str], int] = field(default_factory=dict[tuple[UserId, str], int])


@dataclass(frozen=True, slots=True)
class _Planned:
    """The message at `position` of the plan: this send's own, or that of an equal send of the same group."""

    position: int
    created: bool


@dataclass(frozen=True, slots=True)
class _Repeat:
    message_id: MessageId


_Outcome = _Planned | _Repeat | Problem | Busy


async def _load_group(tx: Tx, items: Sequence[Send]) -> _Group:
    memberships = await load_memberships(
        tx, [(item.draft.chat_id, item.sender_id) for item in items]
    )
    present = [item for item in items if (item.draft.chat_id, item.sender_id) in memberships]
    seen = await find_seen(
        tx,
        [
            (item.sender_id, item.draft.client_message_id)
            for item in present
            if item.draft.client_message_id is not None
        ],
    )
    replies = [
        (item.sender_id, item.draft.chat_id, item.draft.reply_to_id)
        for item in present
        if item.draft.reply_to_id is not None
    ]
    return _Group(
        memberships=memberships,
        seen=seen,
        keys=await items[0].keyring.load(
            tx,
            {chat_key(send.chat_id) for send in seen.values()}
            | {chat_key(item.draft.chat_id) for item in present},
        ),
        blocks=await find_blocks(tx, list_block_pairs(memberships.values())),
        targets=await load_reply_targets(tx, [message_id for _, _, message_id in replies]),
        hidden=await find_hidden(tx, replies),
        directory=await open_directory(
            tx, [(item.draft.chat_id, item.draft.content) for item in present]
        ),
    )


async def _load_repeated(
    tx: Tx, keyring: Keyring, group: _Group, message_ids: set[MessageId]
) -> Mapping[MessageId, Rendered]:
    """Earlier sends as they are now. They quote nothing that a sender who left and came back may not see;
    where several senders repeat at once in one chat, the one who sees least decides.
    """
    if not message_ids:
        return {}
    floors: dict[ChatId, int] = {}
    for (chat_id, _), membership in group.memberships.items():
        floors[chat_id] = max(floors.get(chat_id, 0), visible_floor(membership))
    return await load_messages(tx, keyring, message_ids, floors=floors)


def _decide(group: _Group, plan: _Plan, item: Send) -> _Outcome:
    """One send's fate. Membership comes first: who is not in the chat learns nothing about earlier sends."""
    draft = item.draft
    membership = group.memberships.get((draft.chat_id, item.sender_id))
    if membership is None:
        return ChatNotFound()
    earlier = _find_earlier(group, plan, item)
    if earlier is not None:
        return earlier
    if chat_key(draft.chat_id) not in group.keys:
        return KeyUnreadable()
    media = bool(draft.attachments)
    problem = judge_writing(
        membership, group.blocks, text=not media, media=media
    ) or _judge_references(group, membership, draft)
    if problem is not None:
        return problem
    if draft.client_message_id is not None:
        plan.taken[item.sender_id, draft.client_message_id] = len(plan.messages)
    plan.messages.append(_make_message(group, membership, draft))
    return _Planned(len(plan.messages) - 1, created=True)


def _find_earlier(group: _Group, plan: _Plan, item: Send) -> _Outcome | None:
    """What stands under the same client id: in the database, or in this very group."""
    draft = item.draft
    if draft.client_message_id is None:
        return None
    key = (item.sender_id, draft.client_message_id)
    position = plan.taken.get(key)
    if position is not None:
        planned = plan.messages[position]
        is_same = planned.chat.id == draft.chat_id and planned.canonical == draft.canonical
        return _Planned(position, created=False) if is_same else ClientMessageIdReused()
    send = group.seen.get(key)
    if send is None:
        return None
    if is_repeat(send, group.keys, chat_id=draft.chat_id, canonical=draft.canonical):
        return _Repeat(send.message_id)
    return ClientMessageIdReused()


def is_repeat(
    send: SeenSend, keys: Mapping[str, DataKey], *, chat_id: ChatId, canonical: bytes
) -> bool:
    """Whether the earlier `send` had this body, in this chat."""
    key = keys.get(chat_key(send.chat_id))
    return (
        send.chat_id == chat_id
        and key is not None
        and send.fingerprint is not None
        and key.has_fingerprint(canonical, send.fingerprint)
    )


def _judge_references(group: _Group, membership: Membership, draft: Draft) -> Problem | None:
    """Every id in the draft must be of this chat, and visible to the sender."""
    if draft.reply_to_id is not None:
        target = group.targets.get(draft.reply_to_id)
        if (
            target is None
            or target.chat_id != draft.chat_id
            or not is_visible(membership, draft.reply_to_id)
            or (membership.user_id, draft.reply_to_id) in group.hidden
        ):
            return MessageNotFound()
    if group.directory.names_strangers(draft.chat_id, draft.content):
        return MemberNotFound()
    return None


def _make_message(group: _Group, membership: Membership, draft: Draft) -> NewMessage:
    return NewMessage(
        chat=membership.chat,
        sender_id=membership.user_id,
        content=draft.content,
        reply_to=None if draft.reply_to_id is None else group.targets[draft.reply_to_id],
        client_message_id=draft.client_message_id,
        canonical=draft.canonical,
        silent=draft.silent,
        mentioned=group.directory.list_mentioned(
            draft.chat_id, draft.content, by=membership.user_id
        ),
        attachments=draft.attachments,
    )


async def _claim_attachments(tx: Tx, keyring: Keyring, plan: _Plan) -> None:
    """After all that may refuse the send or find it said already: a repeat may show files that have ended."""
    for position, message in enumerate(plan.messages):
        if message.attachments:
            message_type = await claim_attachments(
                tx, keyring, owner_id=message.sender_id, file_ids=message.attachments
            )
            plan.messages[position] = replace(message, type=message_type)


def _finish(
    outcome: _Outcome, views: Sequence[Rendered], repeated: Mapping[MessageId, Rendered]
) -> Sent | Problem | Busy:
    match outcome:
        case _Planned():
            return Sent(views[outcome.position], created=outcome.created)
        case _Repeat():
            return Sent(repeated[outcome.message_id], created=False)
        case _:
            return outcome
