"""Telling subscribers of channels the number of members that changed in a minute and was not told in it."""

from functools import partial

from app.features.chats.access import find_chat
from app.features.chats.changes import lock_chat, tell_count
from app.features.chats.queries import change_chat, find_count_times, find_due_counts
from app.infra.database.database import LONG_SECONDS, Database
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId

_CHATS_A_READ = 100


async def tell_due_counts(db: Database) -> None:
    """Tell what is due; where several workers do so at once, one tells."""
    while True:
        due = await db.read(
            partial(find_due_counts, limit=_CHATS_A_READ), timeout_seconds=LONG_SECONDS
        )
        for chat_id in due:
            await db.write(partial(_tell, chat_id=chat_id), timeout_seconds=LONG_SECONDS)
        if len(due) < _CHATS_A_READ:
            return


async def _tell(tx: Tx, *, chat_id: ChatId) -> None:
    log = await lock_chat(tx, chat_id)
    _, due_at = await find_count_times(tx, chat_id)
    if due_at is None or due_at > tx.now:
        return
    if await find_chat(tx, chat_id) is None:
        # Deleted meanwhile: there is nobody to tell.
        await change_chat(tx, chat_id, {"count_due_at": None})
        return
    await tell_count(tx, log, chat_id)
