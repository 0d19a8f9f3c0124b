"""A chat as one of its members sees it: the Chat with what is mine, the peer, counts and the newest message.

However many chats it is given, it runs a constant number of statements for one viewer.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

from app.features.chats.access import membership_from_row
from app.features.chats.policy import Membership, permission_names
from app.features.chats.render import ChatView, render_chat
from app.features.files.photos import load_photos
from app.features.inbox.queries import read_item_rows
from app.features.messages.render import Rendered, load_messages
from app.features.messages.unread import NOTHING_UNREAD, Unread, count_unread
from app.features.users.views import Profile, UserView, load_profiles, render_profiles
from app.infra.cipher.keyring import Keyring, chat_key
from app.infra.database.tx import Tx
from app.infra.presence.port import PresenceStore
from app.kernel.clock import format_time
from app.kernel.ids import ChatId, MessageId, UserId

Pair = tuple[UserId, ChatId]


class MyView(TypedDict):
    """What I am in a chat, and what I have set for myself."""

    role: str
    permissions: Sequence[str]
    last_read_message_id: int
    is_pinned: bool
    is_archived: bool
    muted_until: str | None


class ItemView(ChatView):
    """An item of `GET /chats/`. `my` is null for whoever looks at a public chat from outside."""

    my: MyView | None
    peer: UserView | None
    unread_count: int
    unread_capped: NotRequired[bool]
    unread_mentions_count: int
    others_read_message_id: int
    last_message: Rendered | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedItem:
    """`view` still lacks its peer: whether they are online is asked outside the transaction."""

    view: ItemView
    peer: Profile | None


async def load_items(tx: Tx, keyring: Keyring, pairs: Iterable[Pair]) -> dict[Pair, LoadedItem]:
    """The chats of (user, chat) pairs; those that the user is not in are absent."""
    rows = await read_item_rows(tx, list(pairs))
    memberships = {(row.user_id, row.id): membership_from_row(row, now=tx.now) for row in rows}
    keys = await keyring.load(tx, {chat_key(row.id) for row in rows})
    unread = await count_unread(tx, [(chat_id, user_id) for user_id, chat_id in memberships])
    photos = await load_photos(tx, keyring, [row.photo_id for row in rows])
    messages = await _load_newest(tx, keyring, rows, memberships)
    profiles = await _load_peers(tx, keyring, memberships.values())
    items: dict[Pair, LoadedItem] = {}
    for row in rows:
        membership = memberships[row.user_id, row.id]
        newest = row.newest_visible_id
        items[row.user_id, row.id] = LoadedItem(
            view=_render(
                row,
                chat=render_chat(row, keys.get(chat_key(row.id)), photos.get(row.photo_id)),
                membership=membership,
                unread=unread.get((row.id, row.user_id), NOTHING_UNREAD),
                last_message=None if newest is None else messages.get(newest),
            ),
            peer=profiles.get((row.user_id, membership.peer_id)),
        )
    return items


async def render_items(presence: PresenceStore, items: Sequence[LoadedItem]) -> list[ItemView]:
    """In the same order; asks the presence store once."""
    peers = [item.peer for item in items if item.peer is not None]
    views = iter(await render_profiles(presence, peers))
    return [
        item.view if item.peer is None else {**item.view, "peer": next(views)} for item in items
    ]


def render_outside(chat: ChatView) -> ItemView:
    """A public chat for whoever is not in it."""
    return {
        **chat,
        "my": None,
        "peer": None,
        "unread_count": 0,
        "unread_mentions_count": 0,
        "others_read_message_id": 0,
        "last_message": None,
    }


def _render(
    row: Any,
    *,
    chat: ChatView,
    membership: Membership,
    unread: Unread,
    last_message: Rendered | None,
) -> ItemView:
    view: ItemView = {
        **chat,
        "my": {
            "role": str(membership.role),
            "permissions": permission_names(membership.rights),
            "last_read_message_id": membership.last_read_message_id,
            "is_pinned": row.is_pinned,
            "is_archived": row.is_archived,
            "muted_until": None if row.muted_until is None else format_time(row.muted_until),
        },
        "peer": None,
        "unread_count": unread.messages,
        "unread_mentions_count": unread.mentions,
        "others_read_message_id": row.others_read_message_id or 0,
        "last_message": last_message,
    }
    if unread.is_capped:
        view["unread_capped"] = True
    return view


async def _load_newest(
    tx: Tx, keyring: Keyring, rows: Sequence[Any], memberships: Mapping[Pair, Membership]
) -> dict[MessageId, Rendered]:
    # Where several viewers look at one chat, the one who sees least decides what replies quote.
    floors: dict[ChatId, int] = {}
    for (_, chat_id), membership in memberships.items():
        floor = max(membership.first_visible_id - 1, membership.cleared_id)
        floors[chat_id] = max(floors.get(chat_id, 0), floor)
    newest = {row.newest_visible_id for row in rows if row.newest_visible_id is not None}
    chats = {membership.chat.id: membership.chat for membership in memberships.values()}
    return await load_messages(tx, keyring, newest, chats=chats, floors=floors)


async def _load_peers(
    tx: Tx, keyring: Keyring, memberships: Iterable[Membership]
) -> dict[tuple[UserId, UserId | None], Profile]:
    """By (viewer, peer): what one may see of a person depends on who looks."""
    wanted: dict[UserId, set[UserId]] = {}
    for membership in memberships:
        if membership.peer_id is not None:
            wanted.setdefault(membership.user_id, set()).add(membership.peer_id)
    profiles: dict[tuple[UserId, UserId | None], Profile] = {}
    for viewer, peers in wanted.items():
        found = await load_profiles(tx, keyring, viewer=viewer, user_ids=peers)
        profiles.update({(viewer, peer): profile for peer, profile in found.items()})
    return profiles
