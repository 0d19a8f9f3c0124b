"""What chats ask of the slices above them; those answer in their `feature.py`."""

from collections.abc import Sequence
from typing import Literal, Protocol

from app.features.updates.log import ScopeLog
from app.infra.cipher.keyring import Keyring
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, MessageId, UserId
from app.kernel.rules import Rules

ServiceAction = Literal[
    "group_created",
    "members_added",
    "member_joined",
    "member_left",
    "member_removed",
    "title_changed",
    "owner_changed",
    "photo_changed",
    "photo_removed",
]


class ServiceMessages(Protocol):
    """Writes "X joined" into a chat. Answered by messages."""

    async def append_service_message(
        self,
        tx: Tx,
        log: ScopeLog,
        keyring: Keyring,
        *,
        chat_id: ChatId,
        actor_id: UserId,
        action: ServiceAction,
        user_ids: Sequence[UserId],
    ) -> None:
        """Append a message of type `service`; `log` holds the chat's scope.

        `user_ids` are whom `action` concerns beside the actor; for the title and the photo nobody.
        """
        ...


class ChatContents(Protocol):
    """Empties chats. Answered by every slice that keeps something written in them."""

    async def erase_messages(self, tx: Tx, *, chat_id: ChatId, upto: MessageId) -> None:
        """Delete for everyone, without an update, what was written up to and with this id."""
        ...

    async def erase_plain(self, tx: Tx, *, chat_id: ChatId) -> None:
        """Delete what destroying the chat's key does not reach: what was stored without a cipher, and what
        has keys of its own.
        """
        ...


async def write_service_message(
    rules: Rules,
    tx: Tx,
    log: ScopeLog,
    keyring: Keyring,
    *,
    chat_id: ChatId,
    actor_id: UserId,
    action: ServiceAction,
    user_ids: Sequence[UserId] = (),
) -> None:
    """Ask whoever writes service messages to write this one."""
    for rule in rules.all(ServiceMessages):
        await rule.append_service_message(
            tx,
            log,
            keyring,
            chat_id=chat_id,
            actor_id=actor_id,
            action=action,
            user_ids=user_ids,
        )


async def erase_messages(rules: Rules, tx: Tx, *, chat_id: ChatId, upto: MessageId) -> None:
    """Ask every slice that keeps contents of chats to delete them for everyone."""
    for rule in rules.all(ChatContents):
        await rule.erase_messages(tx, chat_id=chat_id, upto=upto)


async def erase_plain(rules: Rules, tx: Tx, *, chat_id: ChatId) -> None:
    """Ask every slice that keeps contents of chats to delete what no key protects."""
    for rule in rules.all(ChatContents):
        await rule.erase_plain(tx, chat_id=chat_id)
