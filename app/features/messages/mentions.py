"""Who is mentioned in a text: members of the chat alone, found in a constant number of statements."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from app.features.messages.content import Content
from app.features.messages.queries import find_current_members, find_users_by_name
from app.infra.database.tx import Tx
from app.kernel.entities import EntityType, utf16_slice
from app.kernel.ids import ChatId, UserId

MAX_MENTIONED = 50


@dataclass(frozen=True, slots=True)
class MentionDirectory:
    """Names and memberships, looked up once for many messages."""

    users: Mapping[str, UserId]
    members: set[tuple[ChatId, UserId]]

    def list_mentioned(self, chat_id: ChatId, content: Content, *, by: UserId) -> list[UserId]:
        """Those whose count of mentions grows: at most 50, never the writer."""
        named = [self.users[name] for name in _list_names(content) if name in self.users]
        candidates = dict.fromkeys([*_list_user_ids(content), *named])
        return [
            user_id
            for user_id in candidates
            if user_id != by and (chat_id, user_id) in self.members
        ][:MAX_MENTIONED]

    def names_strangers(
        self, chat_id: ChatId, content: Content, *, known: Iterable[UserId] = ()
    ) -> bool:
        """Whether a `text_mention` points at someone who is not in the chat and not `known`."""
        accepted = set(known)
        return any(
            user_id not in accepted and (chat_id, user_id) not in self.members
            for user_id in _list_user_ids(content)
        )


async def open_directory(tx: Tx, items: Sequence[tuple[ChatId, Content]]) -> MentionDirectory:
    """What is needed to judge the mentions of these texts."""
    names = {name for _, content in items for name in _list_names(content)}
    users = await find_users_by_name(tx, sorted(names)) if names else {}
    pairs = {
        (chat_id, user_id)
        for chat_id, content in items
        for user_id in [
            *_list_user_ids(content),
            *(users[name] for name in _list_names(content) if name in users),
        ]
    }
    return MentionDirectory(users, await find_current_members(tx, sorted(pairs)))


def list_text_mentions(content: Content) -> list[UserId]:
    """The users that a text points at by id."""
    return _list_user_ids(content)


def _list_user_ids(content: Content) -> list[UserId]:
    return [
        UserId(entity["user_id"])
        for entity in content.entities
        if entity["type"] == EntityType.TEXT_MENTION and "user_id" in entity
    ]


def _list_names(content: Content) -> list[str]:
    """Lower-case usernames of `@username` entities."""
    text = content.text or ""
    return [
        utf16_slice(text, entity["offset"], entity["length"]).removeprefix("@").lower()
        for entity in content.entities
        if entity["type"] == EntityType.MENTION
    ]
