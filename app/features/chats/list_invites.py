"""The invite links of a chat that were not revoked, the newest first."""

from app.features.chats.access import get_membership, require
from app.features.chats.invites import InviteView, render_invite
from app.features.chats.policy import may_manage_invites
from app.features.chats.queries import list_invites
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.cursors import CursorCodec
from app.kernel.ids import MAX_ID, ChatId, UserId


async def list_chat_invites(
    db: Database,
    cursors: CursorCodec,
    *,
    viewer: UserId,
    chat_id: ChatId,
    cursor: str | None,
    limit: int,
) -> tuple[list[InviteView], str | None]:
    """A page and the cursor of the next; expired and used-up ones are in it.

    Raises:
        chat_not_found, not_allowed, cursor_invalid
    """
    purpose = f"invites:{chat_id}"
    before = MAX_ID if cursor is None else int(cursors.decode(purpose, cursor)[0] or 0)

    async def work(tx: Tx) -> tuple[list[InviteView], str | None]:
        require(may_manage_invites(await get_membership(tx, viewer, chat_id)))
        invites = await list_invites(tx, chat_id, before=before, limit=limit + 1)
        page = invites[:limit]
        more = cursors.encode(purpose, [page[-1].id]) if len(invites) > limit else None
        return [render_invite(invite) for invite in page], more

    return await db.read(work)
