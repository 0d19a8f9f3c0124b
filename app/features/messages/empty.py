"""Taking the files away from chats that are deleted or emptied: the first at once, the rest of very many by a job.

Who may see no message of a chat any more reads none of its files either, from the commit on that empties it. What the
job ends later are the files themselves: until then their uploaders still read them.
"""

import asyncio
import time
from datetime import timedelta
from typing import Final

from sqlalchemy import delete, select, update

from app.features.messages.attachments import detach
from app.features.messages.models import EmptiedChatRow
from app.features.messages.queries import list_media
from app.features.updates.log import lock_scopes
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.infra.database.upsert import upsert
from app.infra.services import Services
from app.kernel.ids import ChatId, MessageId
from app.kernel.scopes import chat_scope
from app.transport.feature import Job

# The locks of a transaction are held for this many messages: some 50 ms.
BATCH: Final = 1000


async def detach_all(tx: Tx, chat_id: ChatId, *, upto: MessageId | None = None) -> None:
    """Of all messages, or of those up to and with this id; the caller holds the chat, and deletes it or them."""
    # What was emptied before is behind us, or the job's.
    reached = await _detach_some(tx, chat_id, after_seq=0, upto=upto, live_only=True)
    if reached is not None:
        row = {"chat_id": chat_id, "after_seq": reached, "upto": upto}
        # Where a job is at work on what was emptied before, it goes on until here.
        await upsert(tx, EmptiedChatRow, [row], index=["chat_id"], update=["upto"])


async def detach_rest(db: Database) -> None:
    """Until no emptied chat shows anything; safe to repeat."""
    while (chat_id := await db.read(_find_emptied)) is not None:
        begun = time.monotonic()
        await db.write(lambda tx, chat_id=chat_id: _go_on(tx, chat_id))
        # Others write meanwhile.
        await asyncio.sleep(time.monotonic() - begun)


async def _find_emptied(tx: Tx) -> ChatId | None:
    return await tx.scalar(select(EmptiedChatRow.chat_id).limit(1))


async def _go_on(tx: Tx, chat_id: ChatId) -> None:
    await lock_scopes(tx, [chat_scope(chat_id)])
    mine = EmptiedChatRow.chat_id == chat_id
    row = await tx.first(select(EmptiedChatRow.after_seq, EmptiedChatRow.upto).where(mine))
    if row is None:
        return
    reached = await _detach_some(
        tx, chat_id, after_seq=row.after_seq, upto=row.upto, live_only=False
    )
    if reached is None:
        await tx.execute(delete(EmptiedChatRow).where(mine))
    else:
        await tx.execute(update(EmptiedChatRow).where(mine).values(after_seq=reached))


async def _detach_some(
    tx: Tx, chat_id: ChatId, *, after_seq: int, upto: MessageId | None, live_only: bool
) -> int | None:
    """How far it came; None: to the end."""
    found = await list_media(
        tx, chat_id, after_seq=after_seq, upto=upto, live_only=live_only, limit=BATCH
    )
    await detach(tx, [message_id for message_id, _ in found])
    return found[-1][1] if len(found) == BATCH else None


async def detach_files(services: Services) -> None:
    await detach_rest(services.db)


JOBS = (Job("detach_files", timedelta(seconds=1), detach_files),)
