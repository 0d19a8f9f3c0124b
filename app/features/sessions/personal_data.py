"""What is kept about a person's devices, erased and exported."""

from collections.abc import Sequence

from sqlalchemy import delete, select, update

from app.features.sessions.models import RefreshTokenRow, SessionRow, TicketRow
from app.features.sessions.open import DEVICE_NAME_PLACE, PLACE_PLACE
from app.infra.cipher.keyring import Keyring, user_key
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.clock import format_time
from app.kernel.ids import UserId
from app.transport.personal_data import Leaver, Page, Section, in_pages

_PAGE = 200


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

    def export(self, services: Services, user_id: UserId) -> Sequence[Section]:
        """All that are known, ended ones too."""
        pages = in_pages(services.db, lambda tx, after: _page(tx, services.keyring, user_id, after))
        return [Section("sessions", pages)]


async def _page(tx: Tx, keyring: Keyring, user_id: UserId, after: int) -> Page:
    statement = (
        select(
            SessionRow.id,
            SessionRow.kind,
            SessionRow.device_name,
            SessionRow.place,
            SessionRow.created_at,
            SessionRow.last_used_at,
            SessionRow.revoked_at,
        )
        .where(SessionRow.user_id == user_id, SessionRow.id > after)
        .order_by(SessionRow.id)
        .limit(_PAGE)
    )
    rows = await tx.all(statement)
    key = await keyring.require(tx, user_key(user_id))
    items = [
        {
            "id": row.id,
            "kind": row.kind,
            "device_name": key.find_text(
                row.device_name,
                table=DEVICE_NAME_PLACE[0],
                column=DEVICE_NAME_PLACE[1],
                row_id=row.id,
            ),
            "place": key.find_text(
                row.place, table=PLACE_PLACE[0], column=PLACE_PLACE[1], row_id=row.id
            ),
            "created_at": format_time(row.created_at),
            "last_used_at": format_time(row.last_used_at),
            "ended_at": row.revoked_at and format_time(row.revoked_at),
        }
        for row in rows
    ]
    return items, rows[-1].id if len(rows) == _PAGE else None
