"""The answer to files: a person's photo is for those to whom that person shows it."""

from collections.abc import Sequence

from app.features.files.queries import list_subjects_of
from app.features.users.access import list_photos_seen
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.ids import FileId, UserId


class UserPhotos:
    """Implements `FileAudience`, by the same policy as every view of a person."""

    kind = "user"

    async def is_shown_to(self, tx: Tx, viewer_id: UserId, file_id: FileId) -> bool:
        """By somebody who is not deleted."""
        # One at most: everybody's photo is an upload of their own.
        shown = await list_subjects_of(tx, file_id, self.kind, limit=1)
        if not shown:
            return False
        return bool(await list_photos_seen(tx, viewer_id, [UserId(it) for it in shown]))

    async def tell_processed(self, services: Services, subject_ids: Sequence[int]) -> None:
        """Nobody: a photo was looked into before it could be chosen."""

    async def drop_ended(self, services: Services, subject_ids: Sequence[int]) -> None:
        """Nothing: only uploads of one's own are chosen, and with the account its photo was taken down."""
