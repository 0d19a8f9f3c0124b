"""A device that applies updates for ever, to be killed: `python -m tests.clients.python.crashing_device FILE`.

It goes on from where its store stands, one update after the other, and keeps a table of its own
in the same transactions.
"""

import asyncio
import sqlite3
import sys

from messenger_client import Change, SqliteStore, Update


def note(connection: sqlite3.Connection, change: Change) -> None:
    assert isinstance(change, Update)
    connection.execute("CREATE TABLE IF NOT EXISTS notes (seq INTEGER)")
    connection.execute("INSERT INTO notes VALUES (?)", (change.seq,))


async def apply_for_ever(path: str) -> None:
    store = SqliteStore(path, note)
    position = await store.load()
    seq = position.cursors.get("chat:1", 0)
    while True:
        batch = [Update("new_message", "chat:1", seq + step, {}) for step in range(1, 4)]
        await store.apply(batch)
        seq += len(batch)


if __name__ == "__main__":
    asyncio.run(apply_for_ever(sys.argv[1]))
