"""The answer to files: a chat's photo is for its members, and for everyone where the chat is public."""

from collections.abc import Sequence

from app.features.chats.queries import is_photo_seen_by
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.ids import FileId, UserId


class ChatPhotos:
    """Implements `FileAudience`."""

    kind = "chat"

    async def is_shown_to(self, tx: Tx, viewer_id: UserId, file_id: FileId) -> bool:
        """An invite link lets nobody in yet: its preview shows the outline alone."""
        return await is_photo_seen_by(tx, viewer_id, file_id)

    async def tell_processed(self, services: Services, subject_ids: Sequence[int]) -> None:
        """Nobody: a photo was looked into before it could be chosen."""

    async def drop_ended(self, services: Services, subject_ids: Sequence[int]) -> None:
        """Nothing: the photos that somebody chose for chats are taken down by what chats erase of them."""
