"""Wrapped keys in a file and back: all of them or none, whatever became of the file."""

import json
from pathlib import Path

import pytest
from sqlalchemy import delete, func, select

from app.infra.cipher import key_files
from app.infra.cipher.key_files import restore_key_file, write_key_file
from app.infra.cipher.keyring import Keyring, chat_key, open_keyring
from app.infra.cipher.models import KeyRow
from app.infra.database.database import Database
from app.infra.database.tables import ServerStateRow
from app.kernel.ids import ChatId
from app.settings import SettingsError

pytestmark = pytest.mark.anyio

CHATS = [chat_key(ChatId(number)) for number in range(10)]


async def keep_keys(db: Database) -> Keyring:
    keyring = await open_keyring(db, b"m" * 40, rounds=1000, personal=True, messages=True)
    await db.write(lambda tx: keyring.create_many(tx, CHATS))
    return keyring


async def lose_keys(db: Database) -> None:
    await db.write(lambda tx: tx.execute(delete(KeyRow)))


async def count_keys(db: Database) -> int | None:
    return await db.read(lambda tx: tx.scalar(select(func.count()).select_from(KeyRow)))


async def restore(db: Database, file: Path) -> int:
    return await db.write(lambda tx: restore_key_file(tx, file))


@pytest.mark.parametrize("batch", [3, 4, 12, 1000])
async def test_all_keys_come_back_however_many_there_are(
    db: Database, directory: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(key_files, "_BATCH", batch)
    keyring = await keep_keys(db)
    file = directory / "keys"
    file.write_text("an older one")
    place = {"table": "t", "column": "c", "row_id": 1}
    key = (await db.read(lambda tx: keyring.load(tx, CHATS[:1])))[CHATS[0]]
    sealed = key.seal(b"text", **place)
    # With those of the server and the root.
    assert await write_key_file(db, file) == 12
    assert file.stat().st_mode & 0o077 == 0
    await lose_keys(db)
    assert await restore(db, file) == 12
    assert await count_keys(db) == 12
    again = await open_keyring(db, b"m" * 40, rounds=1000, personal=True, messages=True)
    key = (await db.read(lambda tx: again.load(tx, CHATS[:1])))[CHATS[0]]
    assert key.open(sealed, **place) == b"text"
    with pytest.raises(SettingsError, match="This database has keys"):
        await restore(db, file)


@pytest.mark.parametrize(
    "damage", ["gone", "empty", "cut", "cut in a line", "a row less", "no head", "other format"]
)
async def test_what_is_not_whole_changes_nothing(
    db: Database, directory: Path, damage: str
) -> None:
    await keep_keys(db)
    file = directory / "keys"
    await write_key_file(db, file)
    await lose_keys(db)
    state = select(ServerStateRow.name, ServerStateRow.value).order_by(ServerStateRow.name)
    before = await db.read(lambda tx: tx.all(state))
    lines = file.read_text().splitlines(keepends=True)
    head = json.loads(lines[0])
    damaged = {
        "empty": [],
        "cut": lines[:-1],
        "cut in a line": [*lines[:-2], lines[-2][:-9]],
        "a row less": [*lines[:3], *lines[4:]],
        "no head": lines[1:],
        "other format": [json.dumps(head | {"format": "other"}) + "\n", *lines[1:]],
    }
    if damage == "gone":
        file.unlink()
    else:
        file.write_text("".join(damaged[damage]))
    with pytest.raises(SettingsError, match=r"cut off or is none|cannot be read"):
        await restore(db, file)
    assert await count_keys(db) == 0
    assert await db.read(lambda tx: tx.all(state)) == before
