"""The one renderer of messages: HTTP answers, acks, updates and `last_message` all come from here.

However many messages it is given, it runs a constant number of statements.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict, cast

from app.features.chats.policy import ChatFacts, ChatType
from app.features.chats.render import open_field
from app.features.files.views import FileView
from app.features.messages.attachments import load_attachments
from app.features.messages.content import EXCERPT_LENGTH, Content, find_content
from app.features.messages.forwards import ForwardOrigin, parse_origin
from app.features.messages.policy import SERVICE
from app.features.messages.queries import (
    ChatHeading,
    MessageRecord,
    load_headings,
    load_records,
)
from app.features.users.senders import Sender, load_senders
from app.infra.cipher.envelope import DataKey
from app.infra.cipher.keyring import Keyring, chat_key
from app.infra.database.tx import Tx
from app.kernel.clock import format_time
from app.kernel.entities import EntityDocument
from app.kernel.ids import ChatId, MessageId, UserId


class ChatSender(TypedDict):
    """Who a channel's post is from."""

    chat_id: ChatId
    title: str | None


class ReplyView(TypedDict):
    """A target that was deleted, or that not all readers may see, shows nothing but its id.

    `type`: what it is, which is all there is of a photo without a caption.
    """

    message_id: MessageId
    type: NotRequired[str]
    sender: NotRequired[Sender | ChatSender]
    text_excerpt: NotRequired[str]


class ForwardView(TypedDict):
    """`chat_id` and `message_id` only of public chats and of this chat itself; of a channel that is
    not public its title at the time, as `sender_name`.
    """

    date: str
    sender: NotRequired[Sender | ChatSender]
    sender_name: NotRequired[str | None]
    chat_id: NotRequired[ChatId]
    message_id: NotRequired[MessageId]


class ServiceView(TypedDict):
    """What happened: `sender` did `action`, to `user_ids`."""

    action: str
    user_ids: list[UserId]


class MessageView(TypedDict):
    """A Message, the same for every viewer. `silent` is there only when it is true."""

    id: MessageId
    chat_id: ChatId
    sender: Sender | ChatSender
    type: str
    text: str | None
    entities: Sequence[EntityDocument]
    attachments: Sequence[FileView]
    reply_to: ReplyView | None
    forward_from: ForwardView | None
    client_message_id: str | None
    created_at: str
    edited_at: str | None
    is_pinned: bool
    reactions: list[object]
    silent: NotRequired[bool]
    service: NotRequired[ServiceView]


class Tombstone(TypedDict):
    """What is left of a message that was deleted for everyone."""

    id: MessageId
    chat_id: ChatId
    is_deleted: Literal[True]
    client_message_id: NotRequired[str]


Rendered = MessageView | Tombstone


async def render_messages(
    tx: Tx,
    keyring: Keyring,
    records: Sequence[MessageRecord],
    *,
    chats: Mapping[ChatId, ChatFacts] | None = None,
    floors: Mapping[ChatId, int] | None = None,
    contents: Mapping[MessageId, Content] | None = None,
) -> list[Rendered]:
    """The messages, in their order.

    Args:
        tx: any transaction.
        keyring: opens the bodies.
        records: what was loaded; the caller has checked who may see them.
        chats: facts that the caller has at hand.
        floors: the highest id, chat by chat, that the one viewer may not see: replies to it show no
            text. None: for all members alike; the gateway takes out what newcomers may not see.
        contents: bodies that need not be opened.
    """
    live = [record for record in records if record.deleted_at is None]
    desk = await _load_desk(
        tx, keyring, live, chats=chats or {}, floors=floors, contents=contents or {}
    )
    return [desk.render(record) for record in records]


async def load_messages(
    tx: Tx,
    keyring: Keyring,
    message_ids: Collection[MessageId],
    *,
    chats: Mapping[ChatId, ChatFacts] | None = None,
    floors: Mapping[ChatId, int] | None = None,
) -> dict[MessageId, Rendered]:
    """Messages by id, deleted ones as tombstones; the caller has checked who may see them."""
    records = list((await load_records(tx, message_ids)).values())
    views = await render_messages(tx, keyring, records, chats=chats, floors=floors)
    return {record.id: view for record, view in zip(records, views, strict=True)}


def render_tombstone(record: MessageRecord) -> Tombstone:
    tombstone: Tombstone = {"id": record.id, "chat_id": record.chat_id, "is_deleted": True}
    if record.client_message_id is not None:
        tombstone["client_message_id"] = record.client_message_id
    return tombstone


async def _load_desk(
    tx: Tx,
    keyring: Keyring,
    live: Sequence[MessageRecord],
    *,
    chats: Mapping[ChatId, ChatFacts],
    floors: Mapping[ChatId, int] | None,
    contents: Mapping[MessageId, Content],
) -> "_Desk":
    origins = {
        record.id: origin for record in live if (origin := parse_origin(record.forward)) is not None
    }
    headings = await load_headings(tx, _chats_to_load(live, origins.values(), chats))
    desk = _Desk(
        chats={chat_id: chat.type for chat_id, chat in chats.items()}
        | {chat_id: ChatType(heading.type) for chat_id, heading in headings.items()},
        headings=headings,
        floors=floors or {},
        origins=origins,
        contents=contents,
        attachments=await load_attachments(tx, keyring, live),
        keys=await keyring.load(
            tx, [chat_key(chat_id) for chat_id in {r.chat_id for r in live} | headings.keys()]
        ),
        senders={},
    )
    desk.senders.update(await load_senders(tx, keyring, set(desk.list_sender_ids(live))))
    return desk


def _chats_to_load(
    live: Iterable[MessageRecord],
    origins: Iterable[ForwardOrigin],
    chats: Mapping[ChatId, ChatFacts],
) -> set[ChatId]:
    """Chats that nothing is known of, and those whose title or openness is shown."""
    wanted = {
        record.chat_id
        for record in live
        if record.chat_id not in chats or chats[record.chat_id].type is ChatType.CHANNEL
    }
    return wanted | {origin.chat_id for origin in origins}


@dataclass(slots=True)
class _Desk:
    """All that a page of messages needs, loaded."""

    chats: Mapping[ChatId, ChatType]
    headings: Mapping[ChatId, ChatHeading]
    floors: Mapping[ChatId, int]
    origins: Mapping[MessageId, ForwardOrigin]
    contents: Mapping[MessageId, Content]
    attachments: Mapping[int, Sequence[FileView]]
    keys: Mapping[str, DataKey]
    senders: dict[UserId, Sender]

    def list_sender_ids(self, live: Iterable[MessageRecord]) -> Iterator[UserId]:
        """Every user whose name stands in these messages; those who post for a channel are not shown."""
        for record in live:
            if not self._is_post(record):
                yield record.sender_id
                if record.target_sender_id is not None and self._shows_target(record):
                    yield record.target_sender_id
            origin = self.origins.get(record.id)
            if origin is not None and origin.user_id is not None:
                yield origin.user_id

    def render(self, record: MessageRecord) -> Rendered:
        key = self.keys.get(chat_key(record.chat_id))
        if record.deleted_at is not None or key is None or record.body is None:
            return render_tombstone(record)
        content = self.contents.get(record.id) or find_content(
            key, record.id, record.body, record.revision
        )
        if content is None:
            return render_tombstone(record)
        view: MessageView = {
            "id": record.id,
            "chat_id": record.chat_id,
            "sender": self._render_sender(record, record.sender_id),
            "type": record.type,
            "text": content.text,
            "entities": content.entities,
            "attachments": self.attachments.get(record.id, []),
            "reply_to": self._render_reply(record, key),
            "forward_from": self._render_forward(record, content),
            "client_message_id": record.client_message_id,
            "created_at": format_time(record.created_at),
            "edited_at": None if record.edited_at is None else format_time(record.edited_at),
            "is_pinned": False,
            "reactions": [],
        }
        if record.type == SERVICE:
            view["service"] = cast("ServiceView", record.service)
        elif record.silent:
            view["silent"] = True
        return view

    def _is_post(self, record: MessageRecord) -> bool:
        return self.chats.get(record.chat_id) is ChatType.CHANNEL

    def _render_sender(self, record: MessageRecord, sender_id: UserId) -> Sender | ChatSender:
        if self._is_post(record):
            return self._render_chat(self.headings[record.chat_id])
        return self.senders[sender_id]

    def _render_chat(self, heading: ChatHeading) -> ChatSender:
        key = self.keys.get(chat_key(heading.id))
        title = open_field(key, "title", heading.id, heading.title, heading.revision)
        return {"chat_id": heading.id, "title": title}

    def _shows_target(self, record: MessageRecord) -> bool:
        return (
            record.reply_to_id is not None
            and record.target_body is not None
            and record.target_deleted_at is None
            and record.reply_to_id > self.floors.get(record.chat_id, 0)
        )

    def _render_reply(self, record: MessageRecord, key: DataKey) -> ReplyView | None:
        if record.reply_to_id is None:
            return None
        view: ReplyView = {"message_id": record.reply_to_id}
        if record.target_body is None or not self._shows_target(record):
            return view
        target = find_content(key, record.reply_to_id, record.target_body, record.target_revision)
        if target is None:
            return view
        if record.target_type is not None:
            view["type"] = record.target_type
        if record.target_sender_id is not None:
            view["sender"] = self._render_sender(record, record.target_sender_id)
        if target.text is not None:
            view["text_excerpt"] = target.text[:EXCERPT_LENGTH]
        return view

    def _render_forward(self, record: MessageRecord, content: Content) -> ForwardView | None:
        origin = self.origins.get(record.id)
        if origin is None:
            return None
        heading = self.headings.get(origin.chat_id)
        is_open = (
            heading is not None and heading.deleted_at is None and heading.username is not None
        )
        view: ForwardView = {"date": format_time(origin.created_at)}
        if origin.user_id is not None:
            view["sender"] = self.senders[origin.user_id]
        elif heading is not None and (is_open or origin.chat_id == record.chat_id):
            view["sender"] = self._render_chat(heading)
        else:
            view["sender_name"] = content.forward_name
        if is_open or origin.chat_id == record.chat_id:
            view["chat_id"] = origin.chat_id
            view["message_id"] = origin.message_id
        return view
