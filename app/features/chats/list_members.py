"""The members of a chat, page by page, by user id."""

from collections.abc import Sequence
from typing import Literal

from app.features.chats.access import get_membership, require
from app.features.chats.policy import CURRENT_ROLES, Role, may_list_banned, may_list_members
from app.features.chats.queries import list_members
from app.features.chats.render import MemberView, render_members
from app.infra.cipher.keyring import Keyring
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.cursors import CursorCodec
from app.kernel.ids import ChatId, UserId

MemberFilter = Literal["all", "admins", "restricted", "banned"]

_ROLES: dict[MemberFilter, Sequence[Role]] = {
    "all": CURRENT_ROLES,
    "admins": (Role.OWNER, Role.ADMIN),
    "restricted": (Role.RESTRICTED,),
    "banned": (Role.BANNED,),
}


async def list_chat_members(
    db: Database,
    keyring: Keyring,
    cursors: CursorCodec,
    *,
    viewer: UserId,
    chat_id: ChatId,
    which: MemberFilter,
    cursor: str | None,
    limit: int,
) -> tuple[list[MemberView], str | None]:
    """A page and the cursor of the next. A page may be short, where restrictions or bans have run out.

    Raises:
        chat_not_found, cursor_invalid
        not_allowed: a channel's members are for its admins, banned people for those who may ban.
    """
    purpose = f"members:{chat_id}:{which}"
    after = UserId(0) if cursor is None else UserId(int(cursors.decode(purpose, cursor)[0] or 0))

    async def work(tx: Tx) -> tuple[list[MemberView], str | None]:
        membership = await get_membership(tx, viewer, chat_id)
        require(may_list_members(membership))
        require(which != "banned" or may_list_banned(membership))
        roles = _ROLES[which]
        rows = await list_members(tx, chat_id, roles=roles, after=after, limit=limit + 1)
        page = rows[:limit]
        more = cursors.encode(purpose, [page[-1].user_id]) if len(rows) > limit else None
        shown = [member for member in page if member.role in roles]
        return await render_members(tx, keyring, shown, viewer=viewer), more

    return await db.read(work)
