"""What files keep about a person: what they uploaded; erased and exported."""

from collections.abc import Sequence

from sqlalchemy import select, update

from app.features.files.models import FileRow
from app.features.files.queries import list_ended_uses, load_records, lock_files
from app.features.files.rules import FileAudience
from app.features.files.uses import load_files
from app.infra.database.database import LONG_SECONDS
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.clock import format_time
from app.kernel.ids import UserId
from app.transport.personal_data import Leaver, Page, Section, in_pages

_BATCH = 200
_PAGE = 200


class FilesPersonalData:
    """Answers `transport.personal_data.PersonalData`."""

    async def forget(self, tx: Tx, services: Services, leaver: Leaver) -> None:
        """At once what was uploaded and never shown; the photo of the person is taken down by users."""
        is_mine = (FileRow.owner_id == leaver.user_id, FileRow.ended_at.is_(None))
        await tx.execute(
            update(FileRow)
            .where(*is_mine, FileRow.unused_since.is_not(None))
            .values(ended_at=tx.now)
        )

    async def erase(self, services: Services, leaver: Leaver) -> None:
        """All files end, also where others have forwarded them to, who are told; with `keep_messages` those stay
        that something shows. Their bytes go by the same job as all others.
        """
        if leaver.keep_messages:
            return

        async def work(tx: Tx) -> int:
            statement = select(FileRow.id).where(
                FileRow.owner_id == leaver.user_id, FileRow.ended_at.is_(None)
            )
            found = await tx.scalars(statement.order_by(FileRow.id).limit(_BATCH))
            locked = await lock_files(tx, found)
            await tx.execute(update(FileRow).where(FileRow.id.in_(locked)).values(ended_at=tx.now))
            return len(found)

        while await services.db.write(work, timeout_seconds=LONG_SECONDS):
            pass
        for rule in services.rules.all(FileAudience):
            await _drop_ended(services, rule, leaver.user_id)

    def export(self, services: Services, user_id: UserId) -> Sequence[Section]:
        """What is known of each, and where its bytes can be read."""
        pages = in_pages(services.db, lambda tx, after: _page(tx, services, user_id, after))
        return [Section("files", pages)]


async def _drop_ended(services: Services, rule: FileAudience, owner_id: UserId) -> None:
    """Wherever something still shows a file of this person's that has ended."""
    after = 0
    while subject_ids := await services.db.read(
        lambda tx, after=after: list_ended_uses(
            tx, rule.kind, owner_id=owner_id, after=after, limit=_BATCH
        ),
        timeout_seconds=LONG_SECONDS,
    ):
        await rule.drop_ended(services, subject_ids)
        after = subject_ids[-1]


async def _page(tx: Tx, services: Services, user_id: UserId, after: int) -> Page:
    statement = (
        select(FileRow.id)
        .where(FileRow.owner_id == user_id, FileRow.id > after, FileRow.ended_at.is_(None))
        .order_by(FileRow.id)
        .limit(_PAGE)
    )
    ids = await tx.scalars(statement)
    records = await load_records(tx, ids)
    views = await load_files(tx, services.keyring, ids)
    items = [
        {**views[file_id], "created_at": format_time(records[file_id].created_at)}
        for file_id in ids
        if file_id in views
    ]
    return items, ids[-1] if len(ids) == _PAGE else None
