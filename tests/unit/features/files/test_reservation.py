"""An upload of hours whose database is away for a moment: its note lasts for minutes, and is renewed when it can be."""

from collections.abc import AsyncIterator, Sequence
from unittest.mock import patch

import pytest

from app.features.files.doomed import renew_notes
from app.features.files.policy import Purpose
from app.features.files.store import store_upload
from app.infra.database.tx import Tx
from app.kernel.problems import Unavailable
from tests.unit.features.files.conftest import Depot

pytestmark = pytest.mark.anyio

PIECES = 6


class Renewals:
    """The database that notes are renewed in: away for the first `away` times."""

    def __init__(self, away: int) -> None:
        self.away = away
        self.tried = 0

    async def renew(self, tx: Tx, names: Sequence[str]) -> None:
        self.tried += 1
        if self.tried <= self.away:
            raise Unavailable
        await renew_notes(tx, names)


async def pieces() -> AsyncIterator[bytes]:
    for number in range(PIECES):
        yield bytes([number]) * 100


async def store(depot: Depot, renewals: Renewals, *, lost_after: float) -> int:
    owner_id = await depot.world.new_user()
    reservation = "app.features.files.reservation"
    with (
        patch(f"{reservation}._RENEWED_EVERY_SECONDS", -1),
        patch(f"{reservation}._RETRIED_EVERY_SECONDS", -1),
        patch(f"{reservation}._LOST_AFTER_SECONDS", lost_after),
        patch(f"{reservation}.renew_notes", renewals.renew),
    ):
        file = await store_upload(
            depot.services,
            owner_id=owner_id,
            chunks=pieces(),
            original_name="a.bin",
            purpose=Purpose.ATTACHMENT,
            declared_size=None,
        )
    return file["size"]


async def test_a_renewal_that_fails_is_tried_again(depot: Depot) -> None:
    renewals = Renewals(away=3)
    assert await store(depot, renewals, lost_after=60) == PIECES * 100
    assert renewals.tried == PIECES


async def test_an_upload_ends_when_its_note_is_about_to_fall_due(depot: Depot) -> None:
    renewals = Renewals(away=PIECES)
    with pytest.raises(Unavailable):
        await store(depot, renewals, lost_after=-1)
    assert renewals.tried == 1
