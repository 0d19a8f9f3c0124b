"""Invite links as rules see them: which are good for a joining at one moment, and how they stand on the wire."""

from datetime import datetime
from typing import TypedDict

from app.features.chats.queries import Invite
from app.kernel.clock import format_time


class InviteView(TypedDict):
    """An invite, for those who manage them."""

    code: str
    creator_id: int
    created_at: str
    expires_at: str | None
    max_uses: int | None
    uses: int


def is_usable(invite: Invite, *, now: datetime) -> bool:
    """Neither expired nor used up."""
    if invite.expires_at is not None and invite.expires_at <= now:
        return False
    return invite.max_uses is None or invite.uses < invite.max_uses


def render_invite(invite: Invite) -> InviteView:
    expires_at = invite.expires_at
    return InviteView(
        code=invite.code,
        creator_id=invite.creator_id,
        created_at=format_time(invite.created_at),
        expires_at=None if expires_at is None else format_time(expires_at),
        max_uses=invite.max_uses,
        uses=invite.uses,
    )
