"""Where a device keeps its position, tokens and outbox: in memory, or in SQLite beside the app's own tables."""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from messenger_client.changes import Change, Position, Reset, Update, Voided, find_begun

T = TypeVar("T")
OnChange = Callable[[sqlite3.Connection, Change], None]


@dataclass(frozen=True, slots=True)
class Tokens:
    """`access_expires_at`: seconds since 1970, by this device's clock."""

    access_token: str
    refresh_token: str
    access_expires_at: float


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A send that has no definite answer yet; `body` is that of `POST /messages/`."""

    client_message_id: str
    body: dict[str, Any] = field(hash=False)


class Store(Protocol):
    """Each call is one transaction: when it raises, nothing of it has happened."""

    async def load(self) -> Position:
        """Where the device stands."""
        ...

    async def apply(self, changes: Sequence[Change]) -> None:
        """Keep the changes together with where they move the position."""
        ...

    async def load_tokens(self) -> Tokens | None:
        """None: not signed in."""
        ...

    async def save_tokens(self, tokens: Tokens | None) -> None:
        """None: signed out."""
        ...

    async def put_outgoing(self, send: Outgoing) -> None:
        """Keep a send until `remove_outgoing`; one that is there already stays as it is."""
        ...

    async def list_outgoing(self) -> list[Outgoing]:
        """In the order in which they were put."""
        ...

    async def remove_outgoing(self, client_message_id: str) -> None:
        """It has its answer."""
        ...

    async def close(self) -> None:
        """Let go of what is open."""
        ...


class MemoryStore:
    """Lives as long as the process. `applied`: scope -> its updates and resets, in order."""

    def __init__(self) -> None:
        self.applied: dict[str, list[Change]] = {}
        self._position = Position()
        self._tokens: Tokens | None = None
        self._outgoing: dict[str, Outgoing] = {}

    async def load(self) -> Position:
        return self._position.copy()

    async def apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if isinstance(change, Update | Reset):
                self.applied.setdefault(change.scope, []).append(change)
        self._position.move(changes)

    async def load_tokens(self) -> Tokens | None:
        return self._tokens

    async def save_tokens(self, tokens: Tokens | None) -> None:
        self._tokens = tokens

    async def put_outgoing(self, send: Outgoing) -> None:
        self._outgoing.setdefault(send.client_message_id, send)

    async def list_outgoing(self) -> list[Outgoing]:
        return list(self._outgoing.values())

    async def remove_outgoing(self, client_message_id: str) -> None:
        self._outgoing.pop(client_message_id, None)

    async def close(self) -> None:
        """Nothing is open."""


_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS client_state (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS client_cursors (scope TEXT PRIMARY KEY, seq INTEGER NOT NULL)",
    """CREATE TABLE IF NOT EXISTS client_outbox (
        place INTEGER PRIMARY KEY AUTOINCREMENT,
        client_message_id TEXT NOT NULL UNIQUE,
        body TEXT NOT NULL
    )""",
)


class SqliteStore:
    """A file that survives crashes and power loss.

    `on_change` is called for each change inside the transaction that moves the position, so that
    tables of the app's own are exact as well. It runs on the store's thread.
    """

    def __init__(self, path: Path | str, on_change: OnChange | None = None) -> None:
        self._path = path
        self._on_change = on_change
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="messenger-store")
        self._connection: sqlite3.Connection | None = None
        self._is_closed = False
        # What the file holds, so that an update does not read the cursors of all chats.
        self._position: Position | None = None

    async def load(self) -> Position:
        self._position = await self._run(_load)
        return self._position.copy()

    async def apply(self, changes: Sequence[Change]) -> None:
        # Unknown until it is done: a cancelled caller does not learn of the commit.
        known, self._position = self._position, None

        def work(connection: sqlite3.Connection) -> Position:
            position = known or _load(connection)
            after = position.copy()
            after.move(changes)
            _save(connection, changes, after)
            if self._on_change is not None:
                for change in changes:
                    self._on_change(connection, change)
            return after

        self._position = await self._run(work)

    async def load_tokens(self) -> Tokens | None:
        def work(connection: sqlite3.Connection) -> Tokens | None:
            value = _get(connection, "tokens")
            return None if value is None else Tokens(**json.loads(value))

        return await self._run(work)

    async def save_tokens(self, tokens: Tokens | None) -> None:
        value = None if tokens is None else json.dumps(asdict(tokens))
        await self._run(lambda connection: _set(connection, "tokens", value))

    async def put_outgoing(self, send: Outgoing) -> None:
        row = (send.client_message_id, json.dumps(send.body))
        statement = "INSERT OR IGNORE INTO client_outbox (client_message_id, body) VALUES (?, ?)"
        await self._run(lambda connection: connection.execute(statement, row))

    async def list_outgoing(self) -> list[Outgoing]:
        def work(connection: sqlite3.Connection) -> list[Outgoing]:
            statement = "SELECT client_message_id, body FROM client_outbox ORDER BY place"
            return [Outgoing(it, json.loads(body)) for it, body in connection.execute(statement)]

        return await self._run(work)

    async def remove_outgoing(self, client_message_id: str) -> None:
        statement = "DELETE FROM client_outbox WHERE client_message_id = ?"
        await self._run(lambda connection: connection.execute(statement, (client_message_id,)))

    async def close(self) -> None:
        """A second call does nothing."""

        def work() -> None:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

        if not self._is_closed:
            self._is_closed = True
            await asyncio.get_running_loop().run_in_executor(self._thread, work)
            self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """In one transaction, on the store's thread; it ends also when the caller is cancelled."""

        def run() -> T:
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(connection)
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
            return result

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            if str(self._path) != ":memory:":
                # Tokens are in it: for nobody else to read, also while it is being made.
                Path(self._path).touch(mode=0o600)
            connection = sqlite3.connect(
                self._path, isolation_level=None, timeout=10, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            for statement in _SCHEMA:
                connection.execute(statement)
            self._connection = connection
        return self._connection


def _load(connection: sqlite3.Connection) -> Position:
    cursors = dict(connection.execute("SELECT scope, seq FROM client_cursors"))
    return Position(_get(connection, "epoch"), cursors)


def _save(connection: sqlite3.Connection, changes: Sequence[Change], after: Position) -> None:
    """Write what the changes moved: a few cursors, or all of them in a new epoch."""
    if any(isinstance(change, Voided) for change in changes):
        _set(connection, "epoch", after.epoch)
        connection.execute("DELETE FROM client_cursors")
        touched = set(after.cursors)
    else:
        touched = {scope for change in changes for scope in _list_touched(change)}
    for scope in touched:
        seq = after.cursors.get(scope)
        if seq is None:
            connection.execute("DELETE FROM client_cursors WHERE scope = ?", (scope,))
        else:
            connection.execute(
                "REPLACE INTO client_cursors (scope, seq) VALUES (?, ?)", (scope, seq)
            )


def _list_touched(change: Change) -> list[str]:
    if isinstance(change, Voided):
        return []
    begun = find_begun(change) if isinstance(change, Update) else None
    return [change.scope] if begun is None else [change.scope, begun[0]]


def _get(connection: sqlite3.Connection, name: str) -> str | None:
    statement = "SELECT value FROM client_state WHERE name = ?"
    row = connection.execute(statement, (name,)).fetchone()
    return None if row is None else row[0]


def _set(connection: sqlite3.Connection, name: str, value: str | None) -> None:
    if value is None:
        connection.execute("DELETE FROM client_state WHERE name = ?", (name,))
        return
    connection.execute("REPLACE INTO client_state (name, value) VALUES (?, ?)", (name, value))
