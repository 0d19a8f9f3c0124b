"""The bare floor: a minimal ASGI WebSocket app on the same server, one INSERT a message and no checks.

What the messenger does beside this (permissions, encryption, idempotency, numbering) is measured as
a ratio to it. Rows live in `floor_messages`; who is in which chat is told in the path.

    FLOOR_DATABASE=postgresql://... | sqlite:///path python -m benchmarks.floor PORT
"""

import asyncio
import os
import sqlite3
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import asyncpg
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

_INSERT_PG = (
    "INSERT INTO floor_messages (chat_id, sender_id, text) VALUES ($1, $2, $3) RETURNING id"
)
_INSERT_LITE = "INSERT INTO floor_messages (chat_id, sender_id, text) VALUES (?, ?, ?)"
_PAGE = "SELECT id, chat_id, sender_id, text FROM floor_messages WHERE chat_id = {} ORDER BY id DESC LIMIT 50"


class Store(Protocol):
    async def insert(self, chat_id: int, sender_id: int, text: str) -> int: ...
    async def page(self, chat_id: int) -> list[dict[str, object]]: ...


class PostgresStore:
    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def insert(self, chat_id: int, sender_id: int, text: str) -> int:
        return await self._pool.fetchval(_INSERT_PG, chat_id, sender_id, text)

    async def page(self, chat_id: int) -> list[dict[str, object]]:
        return [dict(row) for row in await self._pool.fetch(_PAGE.format("$1"), chat_id)]


class SqliteStore:
    """One thread, one durable commit a message."""

    def __init__(self, path: str) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS floor_messages "
            "(id INTEGER PRIMARY KEY, chat_id INTEGER, sender_id INTEGER, text TEXT)"
        )
        self._db.execute("CREATE INDEX IF NOT EXISTS ix_floor ON floor_messages (chat_id, id)")

    async def insert(self, chat_id: int, sender_id: int, text: str) -> int:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._insert, chat_id, sender_id, text)

    def _insert(self, chat_id: int, sender_id: int, text: str) -> int:
        return int(self._db.execute(_INSERT_LITE, (chat_id, sender_id, text)).lastrowid or 0)

    async def page(self, chat_id: int) -> list[dict[str, object]]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._page, chat_id)

    def _page(self, chat_id: int) -> list[dict[str, object]]:
        names = ("id", "chat_id", "sender_id", "text")
        rows = self._db.execute(_PAGE.format("?"), (chat_id,))
        return [dict(zip(names, row, strict=True)) for row in rows]


async def _open_store() -> Store:
    url = os.environ["FLOOR_DATABASE"]
    if url.startswith("sqlite:///"):
        return SqliteStore(url.removeprefix("sqlite:///"))
    pool = await asyncpg.create_pool(url, min_size=10, max_size=10)
    await pool.execute(
        "CREATE TABLE IF NOT EXISTS floor_messages "
        "(id BIGSERIAL PRIMARY KEY, chat_id BIGINT, sender_id BIGINT, text TEXT)"
    )
    await pool.execute("CREATE INDEX IF NOT EXISTS ix_floor ON floor_messages (chat_id, id)")
    return PostgresStore(pool)


def create_app() -> Starlette:  # noqa: C901 - the smallest server there is, in one place
    members: defaultdict[int, set[WebSocket]] = defaultdict(set)
    stores: list[Store] = []

    async def store() -> Store:
        if not stores:
            stores.append(await _open_store())
        return stores[0]

    async def talk(websocket: WebSocket) -> None:
        user_id, chat_id = websocket.path_params["user_id"], websocket.path_params["chat_id"]
        await websocket.accept()
        members[chat_id].add(websocket)
        await websocket.send_text('{"type":"hello","data":{}}')
        try:
            while True:
                await handle(websocket, user_id, await websocket.receive_text())
        except WebSocketDisconnect:
            members[chat_id].discard(websocket)

    async def handle(websocket: WebSocket, user_id: int, raw: str) -> None:
        frame = orjson.loads(raw)
        data = frame["data"]
        message_id = await (await store()).insert(data["chat_id"], user_id, data["text"])
        message = {
            "id": message_id,
            "chat_id": data["chat_id"],
            "sender_id": user_id,
            "text": data["text"],
        }
        ack = {"type": "ack", "request_id": frame["request_id"], "data": message}
        await websocket.send_text(orjson.dumps(ack).decode())
        text = orjson.dumps({"type": "new_message", "data": message}).decode()
        for member in members[data["chat_id"]]:
            await member.send_text(text)

    async def history(request: Request) -> Response:
        rows = await (await store()).page(request.path_params["chat_id"])
        return Response(orjson.dumps({"items": rows}), media_type="application/json")

    routes: list[Route | WebSocketRoute] = [
        WebSocketRoute("/ws/{user_id:int}/{chat_id:int}", talk),
        Route("/messages/{chat_id:int}", history),
    ]
    return Starlette(routes=routes)


if __name__ == "__main__":
    uvicorn.run(
        create_app(),
        port=int(sys.argv[1]),
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        access_log=False,
        log_level="warning",
    )
