"""What an invite link leads to, for whoever holds it."""

from typing import TypedDict

from app.features.chats.access import find_any_membership, require
from app.features.chats.errors import InviteNotFound
from app.features.chats.invites import is_usable
from app.features.chats.policy import may_come_in
from app.features.chats.queries import find_invite
from app.features.chats.render import load_chats
from app.features.files.photos import PhotoOutline, PhotoView, outline
from app.infra.cipher.keyring import Keyring
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.clock import format_time
from app.kernel.ids import UserId


class PreviewedChat(TypedDict):
    """As much of a chat as an invited person sees before joining. Whether a file may be read does not depend
    on a link that the reader holds: of the photo of a private chat they see the outline.
    """

    id: int
    type: str
    title: str | None
    description: str | None
    username: str | None
    photo: PhotoView | PhotoOutline | None
    members_count: int


class InvitePreview(TypedDict):
    code: str
    expires_at: str | None
    is_member: bool
    chat: PreviewedChat


async def preview_invite(
    db: Database, keyring: Keyring, *, viewer: UserId, code: str
) -> InvitePreview:
    """Raises:
    invite_not_found: also one that has expired or is used up, but for members.
    not_allowed: banned there.
    """

    async def work(tx: Tx) -> InvitePreview:
        invite = await find_invite(tx, code)
        if invite is None:
            raise InviteNotFound
        chat = (await load_chats(tx, keyring, [invite.chat_id])).get(invite.chat_id)
        membership = await find_any_membership(tx, viewer, invite.chat_id)
        is_member = membership is not None and membership.is_current
        if chat is None or not (is_member or is_usable(invite, now=tx.now)):
            raise InviteNotFound
        require(may_come_in(membership))
        expires_at = invite.expires_at
        photo = chat["photo"]
        may_read = is_member or chat["username"] is not None
        return InvitePreview(
            code=invite.code,
            expires_at=None if expires_at is None else format_time(expires_at),
            is_member=is_member,
            chat=PreviewedChat(
                id=chat["id"],
                type=chat["type"],
                title=chat["title"],
                description=chat["description"],
                username=chat["username"],
                photo=photo if photo is None or may_read else outline(photo),
                members_count=chat["members_count"],
            ),
        )

    return await db.read(work)
