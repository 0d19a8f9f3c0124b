"""What chats ask of messages: to write "X joined", and to empty a chat."""

from collections.abc import Sequence

from app.features.chats.access import find_chat
from app.features.chats.rules import ServiceAction
from app.features.messages.append import NewMessage, append_messages
from app.features.messages.content import Content
from app.features.messages.empty import detach_all
from app.features.messages.policy import SERVICE
from app.features.messages.queries import erase_plain_bodies, erase_upto
from app.features.updates.log import ScopeLog
from app.infra.cipher.keyring import Keyring
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, MessageId, UserId


class ServiceMessageWriter:
    """Answers `chats.rules.ServiceMessages`."""

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
        """As the Protocol; references alone, so that nothing of it is personal."""
        chat = await find_chat(tx, chat_id)
        if chat is None:
            return
        message = NewMessage(
            chat=chat,
            sender_id=actor_id,
            content=Content(text=None),
            type=SERVICE,
            service={"action": action, "user_ids": list(user_ids)},
            silent=True,
        )
        await append_messages(tx, log, keyring, [message])


class MessageEraser:
    """Answers `chats.rules.ChatContents`."""

    async def erase_messages(self, tx: Tx, *, chat_id: ChatId, upto: MessageId) -> None:
        """As the Protocol: tombstones stay, so that replayed updates and repeated sends find them."""
        await detach_all(tx, chat_id, upto=upto)
        await erase_upto(tx, chat_id, upto)

    async def erase_plain(self, tx: Tx, *, chat_id: ChatId) -> None:
        """As the Protocol; sealed bodies stay, which without their key are noise. Files have keys of their own."""
        await detach_all(tx, chat_id)
        await erase_plain_bodies(tx, chat_id)
