"""The keys of this installation: MASTER_KEY -> key-encryption key -> one data key per user, chat
and the server.

Nothing unwrapped is ever written. A key made in a transaction is shared only after its commit: ids
of a transaction that was rolled back may be given out again, and their keys with them must not.
"""

import asyncio
import base64
import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import delete, insert, select

from app.infra.cipher.envelope import KEY_BYTES, CiphertextInvalid, DataKey, unwrap_key, wrap_key
from app.infra.cipher.models import KeyRow
from app.infra.database.database import Database
from app.infra.database.tables import ServerStateRow
from app.infra.database.tx import Tx
from app.infra.database.upsert import insert_ignore
from app.kernel.ids import ChatId, UserId
from app.settings import SettingsError

SERVER_KEY = "server"

_STATE_NAME = "master_key_kdf"
_KDF = "pbkdf2-sha256"
_SALT_BYTES = 16
_KEK_VERSION = 1
# Measured: 2.5 KiB a key, of which each chat and user that is active on this worker holds one.
_CACHE_SIZE = 20_000


def user_key(user_id: UserId) -> str:
    """The owner's name of what belongs to one person."""
    return f"user:{user_id}"


def chat_key(chat_id: ChatId) -> str:
    """The owner's name of what belongs to one chat."""
    return f"chat:{chat_id}"


async def open_keyring(
    db: Database,
    master_key: bytes,
    *,
    rounds: int,
    personal: bool,
    messages: bool,
    least_rounds: int = 1,
) -> "Keyring":
    """Derive the key-encryption key once for this process; on the first start make the salt and the
    server key.

    Processes that start at once agree: the first to insert wins, the others read what it wrote.
    `rounds` hold for a new installation; an existing one keeps those it was made with, and is
    refused if they are below `least_rounds`.

    Raises:
        SettingsError: MASTER_KEY is not the one of this database; nothing was changed.
    """
    kdf = await db.read(_find_kdf) or await db.write(lambda tx: _create_kdf(tx, rounds))
    if kdf.rounds < least_rounds:
        fault = (
            f"MASTER_KEY: this database was made with PBKDF2_ROUNDS={kdf.rounds}, "
            f"production needs {least_rounds} or more"
        )
        raise SettingsError([fault])
    kek = await asyncio.to_thread(
        hashlib.pbkdf2_hmac, "sha256", master_key, kdf.salt, kdf.rounds, dklen=KEY_BYTES
    )
    keyring = Keyring(kek, personal=personal, messages=messages)
    if not await db.read(keyring.check_server_key):
        await db.write(keyring.ensure_server_key)
    return keyring


class Keyring:
    """Makes, wraps, finds and caches data keys. `personal`, `messages`: whether these classes of
    data are encrypted.
    """

    def __init__(
        self, kek: bytes, *, personal: bool, messages: bool, cache_size: int = _CACHE_SIZE
    ) -> None:
        """`kek`: 32 bytes."""
        self.personal = personal
        self.messages = messages
        self._kek = kek
        self._wrapping = AESGCM(kek)
        self._cache: OrderedDict[str, DataKey] = OrderedDict()
        self._cache_size = cache_size
        self._uncommitted: WeakKeyDictionary[Tx, dict[str, DataKey]] = WeakKeyDictionary()

    def derive(self, purpose: str) -> bytes:
        """32 bytes for one purpose (bus, cursors, ...), the same in every process of this
        installation.
        """
        hkdf = HKDF(
            algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=f"v1|{purpose}".encode()
        )
        return hkdf.derive(self._kek)

    async def create(self, tx: Tx, owner: str) -> DataKey:
        """A new key for an owner who has none."""
        keys = await self.create_many(tx, [owner])
        return keys[owner]

    async def create_many(self, tx: Tx, owners: Sequence[str]) -> dict[str, DataKey]:
        """New keys in one statement."""
        secrets = {owner: os.urandom(KEY_BYTES) for owner in owners}
        if secrets:
            await tx.execute(insert(KeyRow), [self._wrapped_row(*item) for item in secrets.items()])
        keys = {owner: DataKey(owner, {1: secret}) for owner, secret in secrets.items()}
        self._uncommitted.setdefault(tx, {}).update(keys)
        tx.after_commit(lambda: self._remember(keys))
        return keys

    async def load(self, tx: Tx, owners: Iterable[str]) -> dict[str, DataKey]:
        """The keys of these owners, the missing ones by one query; an owner whose key was destroyed
        is absent.
        """
        created = self._uncommitted.get(tx, {})
        keys: dict[str, DataKey] = {}
        missing: list[str] = []
        for owner in dict.fromkeys(owners):
            key = created.get(owner) or self._cached(owner)
            if key is None:
                missing.append(owner)
            else:
                keys[owner] = key
        if missing:
            found = await self._read(tx, missing)
            self._remember(found)
            keys.update(found)
        return keys

    async def require(self, tx: Tx, owner: str) -> DataKey:
        """The key of an owner who must have one.

        Raises:
            LookupError: it was destroyed or never made; a fault of the program or of the database.
        """
        keys = await self.load(tx, [owner])
        return keys[owner]

    async def destroy(self, tx: Tx, owners: Iterable[str]) -> None:
        """Shred all that these owners' keys sealed. Other processes may hold the key in memory
        until they restart or evict it, never in storage.
        """
        names = list(owners)
        await tx.execute(delete(KeyRow).where(KeyRow.id.in_(names)))
        created = self._uncommitted.get(tx, {})
        for name in names:
            created.pop(name, None)
        tx.after_commit(lambda: self._forget(names))

    async def check_server_key(self, tx: Tx) -> bool:
        """Whether the canary, the server's own key, exists and opens.

        Raises:
            SettingsError: it exists and does not open.
        """
        try:
            keys = await self.load(tx, [SERVER_KEY])
        except CiphertextInvalid:
            fault = (
                "MASTER_KEY: this is not the key that this database is encrypted with; "
                "nothing was changed, start again with the right one"
            )
            raise SettingsError([fault]) from None
        return bool(keys)

    async def ensure_server_key(self, tx: Tx) -> None:
        """Make the server's key unless another process was first; then check that we can open that
        one.

        Raises:
            SettingsError: the other process has another MASTER_KEY, or the key was lost while
                others exist.
        """
        row = self._wrapped_row(SERVER_KEY, os.urandom(KEY_BYTES))
        if await insert_ignore(tx, KeyRow, [row], index=["id", "version"]):
            await _refuse_orphans(tx)
        # Not from the cache and not into it: what stands here may still be rolled back.
        try:
            await self._read(tx, [SERVER_KEY])
        except CiphertextInvalid:
            fault = "MASTER_KEY: another process has just set up this database with a different key"
            raise SettingsError([fault]) from None

    def _wrapped_row(self, owner: str, secret: bytes) -> dict[str, object]:
        wrapped = wrap_key(self._wrapping, secret, owner=owner, version=1, kek_version=_KEK_VERSION)
        return {"id": owner, "version": 1, "kek_version": _KEK_VERSION, "wrapped": wrapped}

    async def _read(self, tx: Tx, owners: Sequence[str]) -> dict[str, DataKey]:
        rows = await tx.all(
            select(KeyRow.id, KeyRow.version, KeyRow.kek_version, KeyRow.wrapped).where(
                KeyRow.id.in_(owners)
            )
        )
        secrets: dict[str, dict[int, bytes]] = {}
        for owner, version, kek_version, wrapped in rows:
            secret = unwrap_key(
                self._wrapping, wrapped, owner=owner, version=version, kek_version=kek_version
            )
            secrets.setdefault(owner, {})[version] = secret
        return {owner: DataKey(owner, versions) for owner, versions in secrets.items()}

    def _cached(self, owner: str) -> DataKey | None:
        key = self._cache.get(owner)
        if key is not None:
            self._cache.move_to_end(owner)
        return key

    def _remember(self, keys: Mapping[str, DataKey]) -> None:
        self._cache.update(keys)
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)

    def _forget(self, owners: Iterable[str]) -> None:
        for owner in owners:
            self._cache.pop(owner, None)


class _Kdf(NamedTuple):
    salt: bytes
    rounds: int


async def _find_kdf(tx: Tx) -> _Kdf | None:
    value = await tx.scalar(select(ServerStateRow.value).where(ServerStateRow.name == _STATE_NAME))
    if value is None:
        return None
    _, rounds, salt = value.split("$")
    return _Kdf(base64.b64decode(salt), int(rounds))


async def _create_kdf(tx: Tx, rounds: int) -> _Kdf:
    salt = base64.b64encode(os.urandom(_SALT_BYTES)).decode()
    row = {"name": _STATE_NAME, "value": f"{_KDF}${rounds}${salt}"}
    if await insert_ignore(tx, ServerStateRow, [row], index=["name"]):
        await _refuse_orphans(tx)
    kdf = await _find_kdf(tx)
    if kdf is None:
        msg = "server_state lost a row that was just written"
        raise LookupError(msg)
    return kdf


async def _refuse_orphans(tx: Tx) -> None:
    """Never start anew over data that was sealed under a set-up which is gone."""
    if await tx.scalar(select(KeyRow.id).where(KeyRow.id != SERVER_KEY).limit(1)) is not None:
        fault = (
            "MASTER_KEY: this database holds encrypted data but has lost the row that its keys "
            "depend on; restore it from a backup"
        )
        raise SettingsError([fault])
