"""The files that messages show: a use each, which goes in the transaction that takes the message away."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from sqlalchemy import select

from app.features.files.errors import FileNotFound
from app.features.files.models import FileRow, FileUseRow
from app.features.files.uses import add_uses, claim_files, load_uses, remove_uses
from app.features.files.views import FileView
from app.features.messages.errors import AttachmentsMixed
from app.features.messages.policy import MEDIA_TYPES, judge_album
from app.features.messages.queries import MessageRecord, empty_bodies
from app.infra.cipher.keyring import Keyring
from app.infra.database.key_lists import by_dialect, id_parameters, is_listed
from app.infra.database.tx import Tx
from app.kernel.ids import FileId, MessageId, UserId
from app.kernel.problems import FieldError

MESSAGE = "message"
"""The kind of these uses; their subject is the message."""

_SHOWN = by_dialect(
    lambda dialect: (
        select(FileUseRow.subject_id, FileUseRow.file_id)
        .join(FileRow, FileRow.id == FileUseRow.file_id)
        .where(
            FileUseRow.kind == MESSAGE,
            is_listed(dialect, FileUseRow.subject_id),
            FileRow.ended_at.is_(None),
        )
        .order_by(FileUseRow.subject_id, FileUseRow.position)
    )
)


async def claim_attachments(
    tx: Tx, keyring: Keyring, *, owner_id: UserId, file_ids: Sequence[FileId]
) -> str:
    """Hold the sender's own files to the end of the transaction; gives the type of the message.

    Raises:
        file_not_found: one of them is not the sender's, has ended, or never was.
        attachments_mixed: they do not go into one message.
    """
    claimed = await claim_files(tx, keyring, owner_id=owner_id, file_ids=file_ids)
    message_type = judge_album([str(file.file_type) for file in claimed])
    if message_type is None:
        message = "must be photos and videos, or audio files, or documents, or one voice message"
        raise AttachmentsMixed(errors=[FieldError("attachments", message)])
    return message_type


async def attach(tx: Tx, attachments: Mapping[MessageId, Sequence[FileId]]) -> None:
    """Let messages show these files, each in this order; nothing is sent to the database for none."""
    shown: dict[int, Sequence[FileId]] = {
        message_id: file_ids for message_id, file_ids in attachments.items() if file_ids
    }
    if shown:
        await add_uses(tx, MESSAGE, shown)


async def require_attached(
    tx: Tx, records: Iterable[MessageRecord]
) -> Mapping[MessageId, Sequence[FileId]]:
    """The living files of messages with attachments, in their order.

    Raises:
        file_not_found: of one of them none lives any more: they went with the account of who uploaded them.
    """
    ids = list_media_ids(records)
    attached: dict[MessageId, list[FileId]] = {}
    if not ids:
        return attached
    for row in await tx.all(_SHOWN[tx.dialect], id_parameters(tx.dialect, ids)):
        attached.setdefault(MessageId(row.subject_id), []).append(row.file_id)
    if len(attached) < len(ids):
        raise FileNotFound
    return attached


async def load_attachments(
    tx: Tx, keyring: Keyring, records: Iterable[MessageRecord]
) -> Mapping[int, Sequence[FileView]]:
    """The attachments of messages, in a constant number of statements; in none where no message has any."""
    ids = list_media_ids(records)
    return await load_uses(tx, keyring, MESSAGE, ids) if ids else {}


async def detach(tx: Tx, message_ids: Collection[MessageId]) -> None:
    """Take the files away from messages with attachments: who shows one last, ends it."""
    if message_ids:
        await remove_uses(tx, MESSAGE, sorted(message_ids))


async def empty_messages(tx: Tx, records: Sequence[MessageRecord]) -> None:
    """Leave tombstones of live messages: neither their words nor their files are shown any more."""
    await detach(tx, list_media_ids(records))
    await empty_bodies(tx, [record.id for record in records])


def list_media_ids(records: Iterable[MessageRecord]) -> list[MessageId]:
    return [record.id for record in records if record.type in MEDIA_TYPES]
