"""Making an invite link."""

import secrets
from datetime import datetime

from app.features.chats.access import get_membership, require
from app.features.chats.changes import lock_chat
from app.features.chats.errors import ChatInvalid, TooManyInvites
from app.features.chats.invites import InviteView, render_invite
from app.features.chats.limits import MAX_INVITES
from app.features.chats.models import InviteRow
from app.features.chats.policy import may_manage_invites
from app.features.chats.queries import Invite, count_invites, insert_invite
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, UserId
from app.kernel.problems import FieldError

_CODE_BYTES = 24


async def create_invite(
    db: Database,
    *,
    user_id: UserId,
    chat_id: ChatId,
    expires_at: datetime | None,
    max_uses: int | None,
) -> InviteView:
    """None: without an end, without a limit.

    Raises:
        chat_not_found, not_allowed, chat_invalid, too_many_invites
    """

    async def work(tx: Tx) -> InviteView:
        await lock_chat(tx, chat_id)
        require(may_manage_invites(await get_membership(tx, user_id, chat_id)))
        if expires_at is not None and expires_at <= tx.now:
            raise ChatInvalid(errors=[FieldError("expires_at", "Must be in the future")])
        if await count_invites(tx, chat_id) >= MAX_INVITES:
            raise TooManyInvites
        (invite_id,) = await tx.reserve_ids(InviteRow, 1)
        invite = Invite(
            id=invite_id,
            code=secrets.token_urlsafe(_CODE_BYTES),
            chat_id=chat_id,
            creator_id=user_id,
            created_at=tx.now,
            expires_at=expires_at,
            max_uses=max_uses,
            uses=0,
        )
        await insert_invite(tx, invite._asdict())
        return render_invite(invite)

    return await db.write(work)
