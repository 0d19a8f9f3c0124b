"""What signing in keeps about a person, erased and exported."""

from collections.abc import Sequence

from sqlalchemy import select, update

from app.features.audit.personal_data import read_phone_page
from app.features.auth.factor import forget_factor, load_factor, render_factor
from app.features.auth.models import VerificationRow
from app.features.users.models import UserRow
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.ids import UserId
from app.transport.personal_data import Leaver, Page, Section, in_pages, one_item


class AuthPersonalData:
    """Answers `transport.personal_data.PersonalData`."""

    async def forget(self, tx: Tx, services: Services, leaver: Leaver) -> None:
        """Codes that are out are void. Their rows stay for their time, by the number's blind index
        alone: else deleting an account would lift the limits on codes for a number.
        """
        await forget_factor(tx, leaver.user_id)
        if leaver.phone_index is not None:
            await tx.execute(
                update(VerificationRow)
                .where(VerificationRow.phone_index == leaver.phone_index)
                .values(phone=b"", code_hash=None)
            )

    async def erase(self, services: Services, leaver: Leaver) -> None:
        """Nothing is left for later."""

    def export(self, services: Services, user_id: UserId) -> Sequence[Section]:
        """What is set, without its secrets, and who tried to sign in."""

        async def read(tx: Tx) -> object:
            factor = await load_factor(tx, services.keyring, user_id)
            return await render_factor(tx, factor, user_id)

        async def read_attempts(tx: Tx, after: int) -> Page:
            statement = select(UserRow.phone_index).where(UserRow.id == user_id)
            phone_index = await tx.scalar(statement)
            if phone_index is None:
                return [], None
            return await read_phone_page(tx, services.keyring, phone_index, after)

        return [
            Section("two_step", one_item(services.db, read), is_list=False),
            Section("sign_in_attempts", in_pages(services.db, read_attempts)),
        ]
