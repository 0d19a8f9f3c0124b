"""Revoking an invite link: nobody joins by it any more."""

from app.features.chats.access import get_membership, require
from app.features.chats.changes import lock_chat
from app.features.chats.errors import InviteNotFound
from app.features.chats.policy import may_manage_invites
from app.features.chats.queries import revoke_invite
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, UserId


async def revoke_chat_invite(db: Database, *, user_id: UserId, chat_id: ChatId, code: str) -> None:
    """Raises:
    chat_not_found, not_allowed
    invite_not_found: also one that was revoked before.
    """

    async def work(tx: Tx) -> None:
        await lock_chat(tx, chat_id)
        require(may_manage_invites(await get_membership(tx, user_id, chat_id)))
        if not await revoke_invite(tx, chat_id, code):
            raise InviteNotFound

    await db.write(work)
