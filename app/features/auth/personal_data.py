"""What signing in keeps about a person, erased and exported."""

from collections.abc import Sequence

from sqlalchemy import update

from app.features.auth.factor import forget_factor, load_factor, render_factor
from app.features.auth.models import VerificationRow
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.ids import UserId
from app.transport.personal_data import Leaver, Section, one_item


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
        """What is set, without its secrets."""

        async def read(tx: Tx) -> object:
            factor = await load_factor(tx, services.keyring, user_id)
            return await render_factor(tx, factor, user_id)

        return [Section("two_step", one_item(services.db, read), is_list=False)]
