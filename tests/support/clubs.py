"""People of a town in chats, for tests of use cases without a server around them."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.features.auth import models as auth_models
from app.features.chats.access import find_any_membership
from app.features.chats.change_member import NewRole, change_member
from app.features.chats.changes import Tools
from app.features.chats.create import NewChat, create_chat, create_private_chat
from app.features.chats.policy import ChatType, Membership, Permission, Role
from app.features.chats.render import MemberView
from app.features.chats.rules import ChatContents, ServiceMessages
from app.features.messages.content import check_content
from app.features.messages.send import Draft, send_message
from app.features.messages.service_messages import MessageEraser, ServiceMessageWriter
from app.features.sessions import models as session_models
from app.features.updates.read import LoggedUpdate, read_log
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.cursors import CursorCodec
from app.kernel.ids import ChatId, FileId, MessageId, UserId
from app.kernel.rules import Rules
from app.kernel.scopes import Scope
from tests.support.databases import SetClock
from tests.support.town import Town, build_town

TABLES = (auth_models, session_models)
MUCH = 1_000_000


@dataclass
class Club:
    """A town, and the pieces that use cases of chats are called with."""

    town: Town
    tools: Tools
    cursors: CursorCodec

    @property
    def db(self) -> Database:
        return self.town.db

    @property
    def clock(self) -> SetClock:
        return self.town.clock

    async def pair(self, one: UserId, other: UserId) -> ChatId:
        chat_id, _ = await create_private_chat(self.db, self.tools, user_id=one, peer_id=other)
        return chat_id

    async def group(
        self,
        owner: UserId,
        *members: UserId,
        username: str | None = None,
        history_visible: bool | None = None,
        photo_id: FileId | None = None,
    ) -> ChatId:
        new = NewChat(
            type=ChatType.GROUP,
            title="Group",
            member_ids=members,
            username=username,
            history_visible=history_visible,
            photo_id=photo_id,
        )
        return await create_chat(self.db, self.tools, owner_id=owner, new=new)

    async def channel(self, owner: UserId, *members: UserId, username: str | None = None) -> ChatId:
        new = NewChat(type=ChatType.CHANNEL, title="Channel", member_ids=members, username=username)
        return await create_chat(self.db, self.tools, owner_id=owner, new=new)

    async def put(
        self,
        actor: UserId,
        chat_id: ChatId,
        user_id: UserId,
        role: Role,
        permissions: Permission | None = None,
        **options: object,
    ) -> MemberView:
        """Change a member."""
        wanted = NewRole(role=role, permissions=permissions, **options)  # pyright: ignore[reportArgumentType]
        return await change_member(
            self.db,
            self.tools,
            actor_id=actor,
            chat_id=chat_id,
            user_id=user_id,
            wanted=wanted,
        )

    async def say(self, sender: UserId, chat_id: ChatId, text: str = "text") -> MessageId:
        sent = await send_message(
            self.db,
            self.tools.keyring,
            sender_id=sender,
            draft=Draft(chat_id=chat_id, content=check_content(text, [])),
        )
        return sent.message["id"]

    async def membership(self, user_id: UserId, chat_id: ChatId) -> Membership | None:
        """Past ones included."""

        async def work(tx: Tx) -> Membership | None:
            return await find_any_membership(tx, user_id, chat_id)

        return await self.db.read(work)

    async def role(self, user_id: UserId, chat_id: ChatId) -> Role | None:
        membership = await self.membership(user_id, chat_id)
        return None if membership is None else membership.role

    async def updates(self, scope: Scope) -> Sequence[LoggedUpdate]:
        """All updates of a scope."""
        return await self.db.read(lambda tx: read_log(tx, {scope: (0, MUCH)}, limit=1000))


async def build_club(db: Database, clock: SetClock, *, max_members: int = 1000) -> Club:
    """Without people."""
    town = await build_town(db, clock)
    rules = Rules()
    rules.register(ServiceMessages, ServiceMessageWriter())
    rules.register(ChatContents, MessageEraser())
    tools = Tools(keyring=town.keyring, rules=rules, max_members=max_members)
    return Club(town, tools, CursorCodec(b"c" * 32))
