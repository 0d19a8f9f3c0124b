"""The updates of a person's own scope, erased; they hold references alone and are not exported."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import delete, func, select

from app.features.updates.models import UpdateRow
from app.infra.database.database import LONG_SECONDS
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.ids import UserId
from app.kernel.scopes import ScopeKind
from app.transport.personal_data import Leaver, Section

_BATCH = 500
# A worker that lost the bus reads from here what the sockets still open should hear: that their session is over.
# Without it they would only be told to come back. The last pass takes these rows, too.
_READ_FOR = timedelta(seconds=10)


class UpdatesPersonalData:
    """Answers `transport.personal_data.PersonalData`."""

    async def forget(self, tx: Tx, services: Services, leaver: Leaver) -> None:
        """Nothing at once: there may be many."""

    async def erase(self, services: Services, leaver: Leaver) -> None:
        """The numbers of the scope go on, so the row with its newest one stays."""
        while await services.db.write(
            lambda tx: _erase_some(tx, leaver.user_id), timeout_seconds=LONG_SECONDS
        ):
            pass

    def export(self, services: Services, user_id: UserId) -> Sequence[Section]:
        """They refer to what the other sections hold."""
        return []


async def _erase_some(tx: Tx, user_id: UserId) -> int:
    """How many."""
    mine = (
        (UpdateRow.kind == int(ScopeKind.USER))
        & (UpdateRow.scope_id == user_id)
        & (UpdateRow.created_at < tx.now - _READ_FOR)
    )
    oldest = await tx.scalar(select(func.min(UpdateRow.seq)).where(mine))
    if oldest is None:
        return 0
    return await tx.execute(delete(UpdateRow).where(mine, UpdateRow.seq < oldest + _BATCH))
