"""The key-encryption key: derived from MASTER_KEY once at start, and proved before anything is written.

While the master key is being changed there are two. The table `server_state` then holds the newer one
wrapped under the older one, so that servers that run learn it; the end of the change deletes it.
"""

import asyncio
import base64
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import select, text

from app.infra.cipher.envelope import KEY_BYTES, CiphertextInvalid, unwrap_key, wrap_key
from app.infra.cipher.models import KeyRow
from app.infra.database.database import Database
from app.infra.database.tables import ServerStateRow
from app.infra.database.tx import Tx
from app.settings import SettingsError

SERVER_KEY = "server"
KDF_NAME = "master_key_kdf"
NEXT_NAME = "master_key_next"

_KDF = "pbkdf2-sha256"
_SALT_BYTES = 16
_LINK = "kek"


@dataclass(frozen=True, slots=True)
class Kdf:
    """How a version of the key-encryption key is made of MASTER_KEY. `link`: itself, wrapped under the
    version before, while there are two.
    """

    version: int
    rounds: int
    salt: bytes
    link: bytes | None = None

    def store(self) -> str:
        parts = [_KDF, str(self.rounds), _encode(self.salt), str(self.version)]
        return "$".join([*parts, _encode(self.link)] if self.link else parts)


@dataclass(frozen=True, slots=True)
class Kek:
    """Never shown, not even by `repr` in a trace."""

    version: int
    key: bytes = field(repr=False)

    @property
    def cipher(self) -> AESGCM:
        return AESGCM(self.key)


def new_kdf(version: int, rounds: int) -> Kdf:
    return Kdf(version, rounds, os.urandom(_SALT_BYTES))


async def derive_kek(kdf: Kdf, master_key: bytes) -> Kek:
    """Slow, and off the loop."""
    key = await asyncio.to_thread(
        hashlib.pbkdf2_hmac, "sha256", master_key, kdf.salt, kdf.rounds, dklen=KEY_BYTES
    )
    return Kek(kdf.version, key)


def wrap_link(older: Kek, newer: Kek) -> bytes:
    return wrap_key(
        older.cipher, newer.key, owner=_LINK, version=newer.version, kek_version=older.version
    )


def open_link(older: Kek, kdf: Kdf) -> Kek:
    """The newer key.

    Raises:
        CiphertextInvalid: there is no link, or not from this key.
    """
    key = unwrap_key(
        older.cipher,
        kdf.link or b"",
        owner=_LINK,
        version=kdf.version,
        kek_version=older.version,
    )
    return Kek(kdf.version, key)


async def prove_master_key(db: Database, master_key: bytes) -> Kek:
    """The key-encryption key of a database that was set up before; reads only.

    Raises:
        SettingsError: MASTER_KEY is not the one of this database.
    """
    kdfs = await db.read(find_kdfs)
    kdf = kdfs.get(KDF_NAME)
    if kdf is None:
        fault = (
            "MASTER_KEY: this database holds encrypted data but has lost the row that its keys "
            "depend on; restore it from a backup"
        )
        raise SettingsError([fault])
    kek = await derive_kek(kdf, master_key)
    if await db.read(lambda tx: _opens_canary(tx, kek)):
        return kek
    newer = kdfs.get(NEXT_NAME)
    if newer is not None and await _is_newer(db, newer, master_key):
        fault = (
            "MASTER_KEY: the change to this key has not ended; run `python -m app.admin keys "
            "rotate` again, or start with the old one"
        )
        raise SettingsError([fault])
    fault = (
        "MASTER_KEY: this is not the key that this database is encrypted with; "
        "nothing was changed, start again with the right one"
    )
    raise SettingsError([fault])


def rounds_fault(kdf: Kdf, least: int) -> list[str]:
    """What is to be said of a database whose keys are too cheap to guess; empty: they are not."""
    if kdf.rounds >= least:
        return []
    fault = (
        f"MASTER_KEY: this database was made with PBKDF2_ROUNDS={kdf.rounds}, "
        f"production needs {least} or more"
    )
    return [fault]


async def has_keys(db: Database) -> bool:
    """Whether this database was set up before; False also where it has no tables yet."""

    async def work(tx: Tx) -> bool:
        if tx.dialect == "sqlite":
            known = text("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'keys'")
        else:
            known = text("SELECT to_regclass('keys')")
        rows = await tx.all(known)
        if not rows or rows[0][0] is None:
            return False
        return await tx.scalar(select(KeyRow.id).limit(1)) is not None

    return await db.read(work)


async def find_kdfs(tx: Tx, *, lock: bool = False) -> dict[str, Kdf]:
    """By name of the row. `lock`: they stay as they are to the end of the transaction."""
    statement = select(ServerStateRow.name, ServerStateRow.value).where(
        ServerStateRow.name.in_([KDF_NAME, NEXT_NAME])
    )
    if lock:
        statement = statement.with_for_update(read=True)
    return parse_kdfs({row.name: row.value for row in await tx.all(statement)})


def parse_kdfs(state: Mapping[str, str]) -> dict[str, Kdf]:
    return {name: _parse(state[name]) for name in (KDF_NAME, NEXT_NAME) if name in state}


async def _opens_canary(tx: Tx, kek: Kek) -> bool:
    """The server's own key is the canary: it is re-wrapped last."""
    statement = select(KeyRow.version, KeyRow.kek_version, KeyRow.wrapped)
    rows = await tx.all(statement.where(KeyRow.id == SERVER_KEY))
    try:
        for row in rows:
            unwrap_key(
                kek.cipher,
                row.wrapped,
                owner=SERVER_KEY,
                version=row.version,
                kek_version=row.kek_version,
            )
    except CiphertextInvalid:
        return False
    return True


async def _is_newer(db: Database, kdf: Kdf, master_key: bytes) -> bool:
    """Whether this is the key that a change under way leads to."""
    kek = await derive_kek(kdf, master_key)
    statement = select(KeyRow.id, KeyRow.version, KeyRow.wrapped)
    statement = statement.where(KeyRow.kek_version == kdf.version).limit(1)
    row = await db.read(lambda tx: tx.first(statement))
    if row is None:
        return False
    try:
        unwrap_key(
            kek.cipher, row.wrapped, owner=row.id, version=row.version, kek_version=kdf.version
        )
    except CiphertextInvalid:
        return False
    return True


def _parse(value: str) -> Kdf:
    """Rows of before the first change of the key name no version: it was 1."""
    _, rounds, salt, *more = value.split("$")
    return Kdf(
        version=int(more[0]) if more else 1,
        rounds=int(rounds),
        salt=base64.b64decode(salt),
        link=base64.b64decode(more[1]) if len(more) > 1 else None,
    )


def _encode(value: bytes) -> str:
    return base64.b64encode(value).decode()
