"""Questions that files ask of the slices that show them."""

from collections.abc import Sequence
from typing import Protocol

from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.ids import FileId, UserId


class FileAudience(Protocol):
    """Knows who sees what shows a file: one rule for each `kind` of `file_uses`."""

    @property
    def kind(self) -> str:
        """`message`, `user` or `chat`."""
        ...

    async def is_shown_to(self, tx: Tx, viewer_id: UserId, file_id: FileId) -> bool:
        """Whether any message, person or chat that shows this file shows it to the viewer now. Asked from
        the viewer's side, in statements whose number and rows do not grow with how often it is shown.
        """
        ...

    async def tell_processed(self, services: Services, subject_ids: Sequence[int]) -> None:
        """It is known now what is in a file that these show. Safe to repeat."""
        ...

    async def drop_ended(self, services: Services, subject_ids: Sequence[int]) -> None:
        """Files that these show have ended with the account of who uploaded them: take them away, and tell in the
        transaction that does. Safe to repeat.
        """
        ...
