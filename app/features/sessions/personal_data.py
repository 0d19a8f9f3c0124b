"""What is kept about a person's devices, erased and exported."""

from sqlalchemy import delete, select, update

from app.features.sessions.models import RefreshTokenRow, SessionRow, TicketRow
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.transport.personal_data import Leaver


class SessionsPersonalData:
    """Answers `transport.personal_data.PersonalData`."""

    async def forget(self, tx: Tx, services: Services, leaver: Leaver) -> None:
        """The rows stay as long as those of any ended session: by them its tokens are refused."""
        mine = select(SessionRow.id).where(SessionRow.user_id == leaver.user_id)
        for table in (RefreshTokenRow, TicketRow):
            await tx.execute(delete(table).where(table.session_id.in_(mine)))
        await tx.execute(
            update(SessionRow)
            .where(SessionRow.user_id == leaver.user_id)
            .values(device_name=None, place=None)
        )

    async def erase(self, services: Services, leaver: Leaver) -> None:
        """Nothing is left for later."""
