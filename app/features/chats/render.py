"""Chats and members as they stand on the wire, the same for every viewer but for the photos of members. One
statement a list, one for keys, and those of the photos where there are any.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from app.features.chats.models import ChatRow
from app.features.chats.policy import Membership, Permission, permission_names
from app.features.chats.queries import load_pairs, read_chat_rows
from app.features.files.photos import PhotoView, load_photos
from app.features.users.senders import Portrait, Sender, load_portraits, load_senders
from app.infra.cipher.envelope import DataKey
from app.infra.cipher.keyring import Keyring, chat_key
from app.infra.database.tx import Tx
from app.kernel.clock import format_time
from app.kernel.ids import ChatId, UserId

SealedColumn = Literal["title", "description"]


class ChatView(TypedDict):
    """A Chat. `title`, `description`, `username` and `photo` of a private chat are null."""

    id: int
    type: str
    title: str | None
    description: str | None
    username: str | None
    photo: PhotoView | None
    permissions: Sequence[str]
    history_visible: bool
    members_count: int
    created_at: str
    seq: int


class MemberView(TypedDict):
    """A user in a chat. `until`: the end of a restriction or ban, null for one without. `user` has a photo
    where it is shown to one viewer, not in updates, which are the same for all.
    """

    user: Sender | Portrait
    role: str
    permissions: Sequence[str]
    until: str | None
    joined_at: str


async def load_chats(
    tx: Tx, keyring: Keyring, chat_ids: Iterable[ChatId]
) -> dict[ChatId, ChatView]:
    """Those of the chats that exist."""
    rows = await read_chat_rows(tx, chat_ids)
    keys = await keyring.load(tx, [chat_key(row.id) for row in rows])
    photos = await load_photos(tx, keyring, [row.photo_id for row in rows])
    return {
        row.id: render_chat(row, keys.get(chat_key(row.id)), photos.get(row.photo_id))
        for row in rows
    }


def render_chat(row: Any, key: DataKey | None, photo: PhotoView | None) -> ChatView:
    """From a row of `queries.VIEW_COLUMNS`."""
    return ChatView(
        id=row.id,
        type=row.type,
        title=open_field(key, "title", row.id, row.title, row.revision),
        description=open_field(key, "description", row.id, row.description, row.revision),
        username=row.username,
        photo=photo,
        permissions=permission_names(Permission(row.permissions)),
        history_visible=row.history_visible,
        members_count=row.members_count,
        created_at=format_time(row.created_at),
        seq=row.seq,
    )


def open_field(
    key: DataKey | None,
    column: SealedColumn,
    chat_id: ChatId,
    value: bytes | None,
    revision: int,
) -> str | None:
    """None where the key was destroyed or the value does not open."""
    if key is None:
        return None
    return key.find_text(
        value, table=ChatRow.__tablename__, column=column, row_id=chat_id, revision=revision
    )


def seal_fields(
    keyring: Keyring,
    key: DataKey,
    chat_id: ChatId,
    texts: Mapping[SealedColumn, str | None],
    *,
    revision: int = 0,
) -> dict[str, bytes | None]:
    """Column -> value to store."""
    return {
        column: key.seal_text(
            text,
            table=ChatRow.__tablename__,
            column=column,
            row_id=chat_id,
            revision=revision,
            encrypt=keyring.personal,
        )
        for column, text in texts.items()
    }


async def load_members(
    tx: Tx,
    keyring: Keyring,
    pairs: Iterable[tuple[ChatId, UserId]],
    *,
    viewer: UserId | None,
) -> dict[tuple[ChatId, UserId], MemberView]:
    """Also of those who left or were banned; pairs that never were are absent."""
    memberships = await load_pairs(tx, pairs)
    views = await render_members(tx, keyring, list(memberships.values()), viewer=viewer)
    return dict(zip(memberships, views, strict=True))


async def render_members(
    tx: Tx, keyring: Keyring, memberships: Sequence[Membership], *, viewer: UserId | None
) -> list[MemberView]:
    """In the same order. `viewer` None: for everyone alike, so without photos."""
    ids = {membership.user_id for membership in memberships}
    users: Mapping[UserId, Sender]
    if viewer is None:
        users = await load_senders(tx, keyring, ids)
    else:
        users = await load_portraits(tx, keyring, viewer=viewer, user_ids=ids)
    return [render_member(membership, users[membership.user_id]) for membership in memberships]


def render_member(membership: Membership, user: Sender) -> MemberView:
    until = membership.restricted_until
    return MemberView(
        user=user,
        role=str(membership.role),
        permissions=permission_names(membership.rights),
        until=None if until is None else format_time(until),
        joined_at=format_time(membership.joined_at),
    )
