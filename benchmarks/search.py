"""Finding people among a million: search by phone and by name, and import of an address book.

    make bench-search args="[--only sqlite|postgresql] [--users 1000000]"

The accounts are written straight into the database; then the use cases run as the server runs them,
keys and privacy included. Prints how the databases plan the statements, and writes the section between
its marks in docs/benchmarks.md when both were measured.
"""

import argparse
import asyncio
import os
import platform
import secrets
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
from sqlalchemy import Executable, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import ClauseElement

from app.features.users.import_contacts import Entry, import_contacts
from app.features.users.models import ContactRow, UserNameTokenRow, UserRow
from app.features.users.names import name_tokens, query_tokens
from app.features.users.people import seal_fields
from app.features.users.search import Search, search_users, select_named
from app.infra.cipher.blind_index import BlindIndex
from app.infra.cipher.envelope import DataKey, wrap_key
from app.infra.cipher.keyring import Keyring, open_keyring, user_key
from app.infra.database.database import Database, open_database
from app.infra.database.migrate import migrate
from app.kernel.clock import SystemClock
from app.kernel.ids import UserId
from app.kernel.scopes import ScopeKind
from app.settings import Settings
from tests.support.databases import settings_for
from tests.support.postgres import run_postgres_process
from tests.support.servers import ROOT

REPEATS = 200
CONTACTS = 500
IMPORTED = 100
LIMIT_MS = 50.0
SCANS = ("SCAN", "Seq Scan on")
TABLES = ("users", "user_name_tokens")
MUCH = 10**9
_CHUNK = 20_000
_PAGE = ROOT / "docs" / "benchmarks.md"
_BEGIN = "<!-- figures of benchmarks.search: begin -->"
_END = "<!-- figures of benchmarks.search: end -->"
_LABELS = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
_SYLLABLES = [
    "an",
    "be",
    "co",
    "da",
    "el",
    "fa",
    "gi",
    "ho",
    "in",
    "jo",
    "ka",
    "li",
    "mo",
    "ne",
    "or",
    "pa",
    "re",
    "sa",
    "to",
    "ul",
    "va",
    "wi",
    "xe",
    "yo",
    "zu",
]

Rows = list[tuple[Any, ...]]


class Crowd:
    """`count` accounts with made-up names; the same for the same count."""

    def __init__(self, count: int) -> None:
        dice = Random(count)
        self.first_names = _make_names(dice, 2_000)
        self.last_names = _make_names(dice, 20_000)
        self.ids = [UserId(1_000_000 + 7 * number) for number in range(count)]
        self.names = [
            (dice.choice(self.first_names), dice.choice(self.last_names)) for _ in range(count)
        ]

    def phone(self, number: int) -> str:
        return f"+4915{110_000_000 + number:09d}"


def _make_names(dice: Random, count: int) -> list[str]:
    names: dict[str, None] = {}
    while len(names) < count:
        names["".join(dice.choices(_SYLLABLES, k=dice.randint(2, 4))).title()] = None
    return list(names)


class Writer:
    """Puts rows into a table as fast as the database takes them."""

    async def write(self, table: str, columns: Sequence[str], rows: Rows) -> None:
        raise NotImplementedError

    async def run(self, statement: str) -> None:
        raise NotImplementedError


class SqliteWriter(Writer):
    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA synchronous=OFF")
        self._connection.execute("PRAGMA cache_size=-500000")

    async def write(self, table: str, columns: Sequence[str], rows: Rows) -> None:
        marks = ", ".join("?" * len(columns))
        self._connection.execute("BEGIN")
        self._connection.executemany(
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows
        )
        self._connection.execute("COMMIT")

    async def run(self, statement: str) -> None:
        self._connection.execute(statement)

    async def close(self) -> None:
        self._connection.close()


class PostgresWriter(Writer):
    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def write(self, table: str, columns: Sequence[str], rows: Rows) -> None:
        await self._connection.copy_records_to_table(table, records=rows, columns=list(columns))

    async def run(self, statement: str) -> None:
        await self._connection.execute(statement, timeout=3600)

    async def close(self) -> None:
        await self._connection.close()


async def fill(writer: Writer, keyring: Keyring, index: BlindIndex, crowd: Crowd) -> None:
    """Users with their keys and scopes, then the tokens of their names in the order of the index."""
    for start in range(0, len(crowd.ids), _CHUNK):
        users, keys, scopes = _make_users(keyring, index, crowd, start)
        await writer.write("keys", ("id", "version", "kek_version", "wrapped", "created_at"), keys)
        await writer.write(
            "users",
            ("id", "phone", "phone_index", "first_name", "last_name", "privacy", "created_at"),
            users,
        )
        await writer.write("scopes", ("kind", "id", "seq"), scopes)
    await writer.run("DROP INDEX ix_user_name_tokens_user_id")
    rows: Rows = []
    for row in _make_tokens(index, crowd):
        rows.append(row)
        if len(rows) == 10 * _CHUNK:
            await writer.write("user_name_tokens", ("token", "user_id"), rows)
            rows = []
    await writer.write("user_name_tokens", ("token", "user_id"), rows)
    await writer.run("CREATE INDEX ix_user_name_tokens_user_id ON user_name_tokens (user_id)")
    await writer.run("ANALYZE")


def _make_users(
    keyring: Keyring, index: BlindIndex, crowd: Crowd, start: int
) -> tuple[Rows, Rows, Rows]:
    users: Rows = []
    keys: Rows = []
    scopes: Rows = []
    numbers = range(start, min(start + _CHUNK, len(crowd.ids)))
    for number, user_id in zip(numbers, crowd.ids[start:], strict=False):
        owner, secret = user_key(user_id), secrets.token_bytes(32)
        kek = keyring._kek.cipher  # noqa: SLF001 - written straight into the table
        wrapped = wrap_key(kek, secret, owner=owner, version=1, kek_version=1)
        keys.append((owner, 1, 1, wrapped, 0))
        first, last = crowd.names[number]
        phone = crowd.phone(number)
        texts = {"phone": phone, "first_name": first, "last_name": last}
        sealed = seal_fields(keyring, DataKey(owner, {1: secret}), user_id, texts)
        users.append(
            (
                user_id,
                sealed["phone"],
                index.phone(phone),
                sealed["first_name"],
                sealed["last_name"],
                "{}",
                0,
            )
        )
        scopes.append((int(ScopeKind.USER), user_id, 0))
    return users, keys, scopes


def _make_tokens(index: BlindIndex, crowd: Crowd) -> Iterator[tuple[Any, ...]]:
    numbers_by_name: dict[str, list[int]] = {}
    for number, names in enumerate(crowd.names):
        for name in names:
            numbers_by_name.setdefault(name, []).append(number)
    names_by_token: dict[bytes, list[str]] = {}
    for name in numbers_by_name:
        for token in name_tokens(index, name):
            names_by_token.setdefault(token, []).append(name)
    for token in sorted(names_by_token):
        numbers = {n for name in names_by_token[token] for n in numbers_by_name[name]}
        for number in sorted(numbers):
            yield token, crowd.ids[number]


@asynccontextmanager
async def open_place(
    name: str, directory: Path, stack: ExitStack
) -> AsyncIterator[tuple[Settings, Database, Any]]:
    """An empty database, migrated, and what fills it."""
    if name == "postgresql":
        process = stack.enter_context(run_postgres_process(durable=True))
        settings = settings_for(directory, url=process.url)
    else:
        settings = settings_for(directory)
    await migrate(settings)
    db = open_database(settings, SystemClock())
    if name == "postgresql":
        writer: Any = PostgresWriter(await asyncpg.connect(process.url))
    else:
        writer = SqliteWriter(settings.sqlite_path)
    try:
        yield settings, db, writer
    finally:
        await writer.close()
        await db.close()


async def measure(name: str, count: int) -> dict[str, Any]:
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="messenger-search-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        async with open_place(name, directory, stack) as (_, db, writer):
            keyring = await open_keyring(db, b"m" * 32, rounds=1000, personal=True, messages=True)
            index = BlindIndex(b"i" * 32)
            crowd = Crowd(count)
            started = time.monotonic()
            await fill(writer, keyring, index, crowd)
            print(f"{name}: {count:,} accounts in {time.monotonic() - started:.0f} s", flush=True)
            times = await _measure_all(db, keyring, index, crowd)
            await writer.run("ANALYZE")
            return {"plans": await _explain(db, index, crowd), "times": times}


async def _measure_all(
    db: Database, keyring: Keyring, index: BlindIndex, crowd: Crowd
) -> dict[str, list[float]]:
    dice = Random(1)
    viewer = crowd.ids[0]

    def chosen() -> int:
        return dice.randrange(1, len(crowd.ids))

    async def find(query: str, directory: Any) -> None:
        search = Search(
            viewer=viewer, query=query, limit=50, directory=directory, lookups_per_day=MUCH
        )
        await search_users(db, keyring, index, search=search, rules=[])

    async def add(size: int) -> None:
        owner = crowd.ids[chosen()]
        entries = [
            Entry(phone=crowd.phone(chosen()), first_name="Friend", last_name=None)
            for _ in range(size)
        ]
        await import_contacts(
            db, keyring, index, owner=owner, entries=entries, lookups_per_day=MUCH
        )

    entries = [
        Entry(phone=crowd.phone(chosen()), first_name="Friend", last_name=None)
        for _ in range(CONTACTS)
    ]
    await import_contacts(db, keyring, index, owner=viewer, entries=entries, lookups_per_day=MUCH)
    works: dict[str, Callable[[], Awaitable[None]]] = {
        "search by exact phone": lambda: find(crowd.phone(chosen()), "known"),
        f"search by name, {CONTACTS} contacts": lambda: find(crowd.names[chosen()][0][:4], "known"),
        "search by a word of a name, open directory": lambda: find(
            crowd.names[chosen()][1][:5], "open"
        ),
        "search by one letter, open directory": lambda: find(crowd.names[chosen()][0][0], "open"),
        "search by two words, open directory": lambda: find(
            " ".join(crowd.names[chosen()]), "open"
        ),
        "search by two letters of two words, open directory": lambda: find(
            " ".join(part[:2] for part in crowd.names[chosen()]), "open"
        ),
        f"import of {IMPORTED} contacts": lambda: add(IMPORTED),
    }
    return {what: await _repeat(work) for what, work in works.items()}


async def _repeat(work: Callable[[], Awaitable[None]]) -> list[float]:
    """Milliseconds, sorted."""
    for _ in range(5):
        await work()
    times: list[float] = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        await work()
        times.append((time.perf_counter() - started) * 1000)
    return sorted(times)


class Explain(Executable, ClauseElement):
    """EXPLAIN of a statement, on either database."""

    inherit_cache = False

    def __init__(self, statement: Executable) -> None:
        self.statement = statement


@compiles(Explain)
def _explain_statement(element: Explain, compiler: Any, **options: Any) -> str:
    word = "EXPLAIN" if compiler.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
    return f"{word} {compiler.process(element.statement, **options)}"


async def _explain(db: Database, index: BlindIndex, crowd: Crowd) -> dict[str, list[str]]:
    """How the statements run, after ANALYZE; one that reads a whole table ends the run."""
    first, last = crowd.names[1]
    known = select(ContactRow.user_id).where(ContactRow.owner_id == crowd.ids[0])
    statements = {
        "phones": select(UserRow.id).where(
            UserRow.phone_index.in_([index.phone(crowd.phone(n)) for n in range(IMPORTED)])
        ),
        "names": select_named(query_tokens(index, f"{first} {last}")),
        "names of contacts": select_named(query_tokens(index, first[:4])).where(
            UserNameTokenRow.user_id.in_(known)
        ),
    }
    plans: dict[str, list[str]] = {}
    for what, statement in statements.items():
        rows = await db.read(lambda tx, it=statement: tx.all(Explain(it)))
        plans[what] = [str(row[-1]) for row in rows]
        print(f"{db.dialect}: {what}\n  " + "\n  ".join(plans[what]), flush=True)
        for line in plans[what]:
            if any(f"{scan} {table}" in line for scan in SCANS for table in TABLES):
                sys.exit(f"{what}: the plan reads a whole table: {line}")
    return plans


def render(figures: dict[str, dict[str, Any]], count: int) -> list[str]:
    """The section of the page."""
    lines = [
        f"Written by `make bench-search`: {count:,} accounts, each with a key of its own, sealed phone and names,",
        f"and the blind index of every prefix of its names; {REPEATS} calls of the use case one after the other,",
        "keys, privacy and answers included. Every plan after ANALYZE walks an index. Machine:",
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}.",
        "",
        "| p50 / p95 ms | " + " | ".join(_LABELS[name] for name in figures) + " |",
        "| --- |" + " --- |" * len(figures),
    ]
    for what in next(iter(figures.values()))["times"]:
        cells = [_percentiles(measured["times"][what]) for measured in figures.values()]
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    return lines


def _percentiles(times: list[float]) -> str:
    return f"{_percentile(times, 50):.1f} / {_percentile(times, 95):.1f}"


def _percentile(times: list[float], percent: int) -> float:
    return times[min(len(times) - 1, len(times) * percent // 100)]


def write_section(lines: Sequence[str]) -> None:
    page = _PAGE.read_text()
    head, _, rest = page.partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    _PAGE.write_text(head + _BEGIN + "\n" + "\n".join(lines) + "\n" + _END + tail)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=list(_LABELS))
    parser.add_argument("--users", type=int, default=1_000_000)
    options = parser.parse_args()
    figures: dict[str, dict[str, Any]] = {}
    slow: list[str] = []
    for name in [options.only] if options.only else list(_LABELS):
        figures[name] = asyncio.run(measure(name, options.users))
        for what, times in figures[name]["times"].items():
            print(f"{name}: {what}: {_percentiles(times)} ms", flush=True)
            if _percentile(times, 95) > LIMIT_MS:
                slow.append(f"{name}: {what}")
    if not options.only:
        write_section(render(figures, options.users))
    if slow:
        sys.exit(f"p95 is over {LIMIT_MS:.0f} ms: {', '.join(slow)}")


if __name__ == "__main__":
    main()
