"""A signed-in device that talks and listens, to be killed: run it with FILE, URL and CHAT.

It says 1, 2, 3, ... into the chat, each number under an id of its own, and notes in the store's
transactions what it applies.
"""

import asyncio
import sqlite3
import sys
import uuid

from messenger_client import Change, Client, Options, SqliteStore, Update

SPACE = uuid.UUID(int=7)


def note(connection: sqlite3.Connection, change: Change) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS notes (scope TEXT, kind TEXT, seq INTEGER)")
    scope, seq = getattr(change, "scope", ""), getattr(change, "seq", 0)
    connection.execute("INSERT INTO notes VALUES (?, ?, ?)", (scope, type(change).__name__, seq))


async def live(path: str, base_url: str, chat_id: int) -> None:
    store = SqliteStore(path, note)
    said = 0

    def hear(change: Change) -> None:
        nonlocal said
        if isinstance(change, Update) and change.type == "new_message":
            said = max(said, int(change.data["text"]))

    async with Client(base_url, store, options=Options(backoff_first=0.05), on_change=hear) as me:
        running = asyncio.create_task(me.run())
        await me.wait_until_synced(20)
        history = await me.call("GET", f"/messages/chat/{chat_id}", params={"limit": 1})
        said = max(said, *(int(it["text"]) for it in history["items"]), 0)
        while not running.done():
            said += 1
            client_message_id = str(uuid.uuid5(SPACE, f"{said}"))
            await me.send_message(chat_id, f"{said}", client_message_id=client_message_id)


if __name__ == "__main__":
    asyncio.run(live(sys.argv[1], sys.argv[2], int(sys.argv[3])))
