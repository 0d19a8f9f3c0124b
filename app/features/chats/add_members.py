"""Adding people to a group or channel."""

from collections.abc import Collection
from dataclasses import dataclass

from app.features.chats.access import get_membership, load_chat_memberships, require
from app.features.chats.changes import Change, Tools, admit, lock_chat, lock_people
from app.features.chats.errors import ChatForbidden, ChatFull
from app.features.chats.policy import Membership, Role, may_add_members
from app.features.chats.queries import find_full
from app.features.chats.render import MemberView, load_members
from app.features.users.access import find_existing, may_add_to_groups
from app.features.users.errors import UserNotFound
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """`members`: those asked for who are in the chat now. `not_added`: the others."""

    members: list[MemberView]
    not_added: list[UserId]


async def add_members(
    db: Database, tools: Tools, *, actor_id: UserId, chat_id: ChatId, user_ids: Collection[UserId]
) -> Added:
    """Bring people in. Whoever cannot be added is left out; who is in already stays as they are.

    Left out, all alike: who has blocked the actor, does not let themselves be added, is banned here, or is
    in too many chats.

    Raises:
        chat_not_found, chat_full
        not_allowed: also if nobody of them can be added.
        user_not_found: one of them does not exist; nobody is added.
    """

    async def work(tx: Tx) -> Added:
        await lock_chat(tx, chat_id)
        actor = await get_membership(tx, actor_id, chat_id)
        require(may_add_members(actor))
        asked = sorted(set(user_ids))
        known = await load_chat_memberships(tx, chat_id, asked)
        present = {user_id for user_id, membership in known.items() if membership.is_current}
        outside = set(asked) - present
        if len(await find_existing(tx, outside)) < len(outside):
            raise UserNotFound
        log = await lock_people(tx, actor.chat, outside)
        change = Change(tx=tx, log=log, tools=tools, actor_id=actor_id)
        coming = await choose_addable(tx, actor_id, outside, known=known)
        if not coming and not present:
            raise ChatForbidden
        if actor.chat.members_count + len(coming) > tools.max_members:
            raise ChatFull
        if coming:
            await admit(change, actor.chat, coming, action="members_added")
        inside = sorted({*present, *coming})
        pairs = [(chat_id, user_id) for user_id in inside]
        views = await load_members(tx, tools.keyring, pairs, viewer=actor_id)
        return Added(
            members=list(views.values()),
            not_added=[user_id for user_id in asked if user_id not in inside],
        )

    return await db.write(work)


async def choose_addable(
    tx: Tx,
    actor_id: UserId,
    user_ids: Collection[UserId],
    *,
    known: dict[UserId, Membership],
) -> list[UserId]:
    """Those whom the actor may put into a chat, under their locks; `known` are memberships in it, past ones too."""
    banned = {user_id for user_id, it in known.items() if it.role is Role.BANNED}
    allowed = await may_add_to_groups(tx, actor_id, set(user_ids) - banned)
    return sorted(allowed - await find_full(tx, sorted(allowed)))
