"""The keys of this installation: MASTER_KEY -> key-encryption key -> one data key per user, chat
and the server.

Nothing unwrapped is ever written. A key made in a transaction is shared only after its commit: ids
of a transaction that was rolled back may be given out again, and their keys with them must not.
"""

import os
import secrets as random_tokens
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from weakref import WeakKeyDictionary

import structlog
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import delete, insert, or_, select, update

from app.infra.cipher.envelope import (
    KEY_BYTES,
    CiphertextInvalid,
    DataKey,
    fingerprint_key,
    unwrap_key,
    wrap_key,
)
from app.infra.cipher.kek import (
    KDF_NAME,
    NEXT_NAME,
    SERVER_KEY,
    Kek,
    derive_kek,
    find_kdfs,
    new_kdf,
    open_link,
    parse_kdfs,
    prove_master_key,
    rounds_fault,
)
from app.infra.cipher.models import KeyRow
from app.infra.cipher.places import Kind, find_kind, list_places
from app.infra.cipher.stored_forms import (
    CONVERTING,
    KINDS,
    SEALED,
    STATE_NAMES,
    change_form,
    note_forms,
    read_form,
    set_form,
)
from app.infra.database.database import Database
from app.infra.database.tables import ServerStateRow
from app.infra.database.tx import Tx
from app.infra.database.upsert import insert_ignore, upsert
from app.kernel.ids import BlobId, ChatId, UserId
from app.kernel.problems import Unavailable
from app.settings import SettingsError

ROOT_KEY = "root"
GENERATION_NAME = "keys_generation"
# Without news for longer than this a worker asks the database for every key: it may hold old ones.
LEASE_SECONDS = 5.0

_WATCHED = (KDF_NAME, NEXT_NAME, GENERATION_NAME, *STATE_NAMES)
# Measured: 2.5 KiB a key, of which each chat and user that is active on this worker holds one.
_CACHE_SIZE = 20_000
_RECORD_BYTES = 4 + KEY_BYTES
# In the wrapped root, where a retired version would stand (none is 0): since then the notes of how data is stored
# have marks. Who can write to the database cannot take it out of there, and so cannot go back to before.
_MARKS_BEGAN = 0
_MARKS_RECORD = _MARKS_BEGAN.to_bytes(4, "big") + bytes(KEY_BYTES)
_REPORTS_KEPT = 1_000
_REPORT_SECONDS = 60.0

log = structlog.stdlib.get_logger("app.cipher")


class KeyUnreadable(Unavailable):
    """The key of this chat or account is damaged, or its master key is not known here."""

    code = "key_unreadable"
    title = "The key does not open"


def user_key(user_id: UserId) -> str:
    """The owner's name of what belongs to one person."""
    return f"user:{user_id}"


def chat_key(chat_id: ChatId) -> str:
    """The owner's name of what belongs to one chat."""
    return f"chat:{chat_id}"


def blob_key(blob_id: BlobId) -> str:
    """The owner's name of the bytes of stored files, and of what is said about them."""
    return f"blob:{blob_id}"


def seals_objects(owner: str) -> bool:
    """Whether what lies in the storage is under this key. It is never sealed anew, so that the key is never
    renewed; it is wrapped anew like all others, and goes with what it seals.
    """
    return owner.startswith(("blob:", "upload:"))


def seals_the_record(owner: str) -> bool:
    """Whether only rows of the audit record are under this key, which never change: it is never renewed
    either, and goes with the number's account or the retention of events.
    """
    return owner.startswith("phone:")


def make_secret() -> bytes:
    return os.urandom(KEY_BYTES)


async def open_keyring(
    db: Database,
    master_key: bytes,
    *,
    rounds: int,
    personal: bool,
    messages: bool,
    least_rounds: int = 1,
    kek: Kek | None = None,
) -> "Keyring":
    """Derive the key-encryption key once for this process; on the first start make the salt, the
    server's key and the root of what is derived.

    Processes that start at once agree: the first to insert wins, the others read what it wrote.
    `rounds` hold for a new installation; an existing one keeps those it was made with, and is
    refused if they are below `least_rounds`. `kek`: what `prove_master_key` gave, if it was called.

    Raises:
        SettingsError: MASTER_KEY is not the one of this database; nothing was changed.
    """
    kdfs = await db.read(find_kdfs)
    is_new = KDF_NAME not in kdfs
    if is_new:
        await db.write(lambda tx: _create_kdf(tx, rounds))
        kdfs = await db.read(find_kdfs)
    kdf = kdfs[KDF_NAME]
    if fault := rounds_fault(kdf, least_rounds):
        raise SettingsError(fault)
    if kek is None:
        kek = await (derive_kek(kdf, master_key) if is_new else prove_master_key(db, master_key))
    keyring = Keyring(kek.key, version=kek.version, personal=personal, messages=messages)
    if not await db.read(keyring.check_own_keys):
        await db.write(keyring.ensure_own_keys)
        if not await db.read(keyring.check_own_keys):
            raise LookupError(SERVER_KEY)
    return keyring


class Keyring:
    """Makes, wraps, finds and caches data keys. `personal`, `messages`: whether these classes of
    data are encrypted. `on_invalid` hears of values that do not open, once a minute each.
    """

    def __init__(
        self,
        kek: bytes,
        *,
        personal: bool,
        messages: bool,
        cache_size: int = _CACHE_SIZE,
        version: int = 1,
    ) -> None:
        """`kek`: 32 bytes, of this `version`."""
        self._wanted: dict[Kind, bool] = {"personal": personal, "messages": messages}
        self.on_invalid: Callable[[str, str, int | str], None] = _log_invalid
        self._kek = Kek(version, kek)
        self._ciphers: dict[int, AESGCM] = {version: AESGCM(kek)}
        self._root = kek
        self._cache: OrderedDict[str, DataKey] = OrderedDict()
        self._cache_size = cache_size
        self._uncommitted: WeakKeyDictionary[Tx, dict[str, DataKey]] = WeakKeyDictionary()
        self._generation: str | None = None
        self._heard_at: float | None = None
        self._kinds: dict[tuple[str, str], Kind | None] = {}
        self._forms: dict[Kind, str | None] = {}
        self._trusts_unmarked = False
        self._reported: dict[tuple[str, str, int | str], float] = {}

    @property
    def personal(self) -> bool:
        """Whether personal data is to be sealed now."""
        return self._seals("personal")

    @property
    def messages(self) -> bool:
        """Whether messages are to be sealed now."""
        return self._seals("messages")

    def derive(self, purpose: str) -> bytes:
        """32 bytes for one purpose (bus, cursors, ...), the same in every process of this
        installation, whatever becomes of the master key.
        """
        hkdf = HKDF(
            algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=f"v1|{purpose}".encode()
        )
        return hkdf.derive(self._root)

    async def create(self, tx: Tx, owner: str) -> DataKey:
        """A new key for an owner who has none."""
        keys = await self.create_many(tx, [owner])
        return keys[owner]

    async def create_many(self, tx: Tx, owners: Sequence[str]) -> dict[str, DataKey]:
        """New keys in one statement."""
        return await self.adopt(tx, {owner: make_secret() for owner in owners})

    def sealing_key(self, owner: str, secret: bytes) -> DataKey:
        """For what is sealed before its owner has a row; `adopt` the secret, or it opens for nobody."""
        return DataKey(owner, {1: secret}, guard=self)

    async def adopt(self, tx: Tx, secrets: Mapping[str, bytes]) -> dict[str, DataKey]:
        """Keys of owners who have none, made of these secrets (`make_secret`), in one statement."""
        if secrets:
            await self._hear_if_stale(tx)
            kek_version = await self._choose_kek(tx)
            rows = [self._row(tx, *item, kek_version=kek_version) for item in secrets.items()]
            await tx.execute(insert(KeyRow), rows)
        keys = {owner: self.sealing_key(owner, secret) for owner, secret in secrets.items()}
        self._uncommitted.setdefault(tx, {}).update(keys)
        tx.after_commit(lambda: self._remember(keys))
        return keys

    async def add_version(self, tx: Tx, owner: str) -> int:
        """A newer version of the owner's key; who seals from now on uses it. The caller has told all
        processes before a value that it sealed may meet one that does not know it.
        """
        newest = select(KeyRow.version).where(KeyRow.id == owner).order_by(KeyRow.version.desc())
        version = await tx.scalar(newest.limit(1))
        if version is None:
            raise KeyUnreadable
        kek_version = await self._choose_kek(tx)
        row = self._row(
            tx, owner, os.urandom(KEY_BYTES), kek_version=kek_version, version=version + 1
        )
        await tx.execute(insert(KeyRow).values(row))
        tx.after_commit(lambda: self._forget([owner]))
        return version + 1

    async def retire_versions(self, tx: Tx, owner: str, below: int) -> int:
        """Destroy the versions below: nothing that they sealed opens again. Their fingerprints are
        still known, so that a repeated send is recognised for ever.

        Returns:
            How many.
        """
        opened = await self._open_rows(tx, [owner])
        versions = opened.get(owner)
        if versions is None:
            raise KeyUnreadable
        old = [version for version in versions.secrets if version < below]
        if not old:
            return 0
        newest = max(versions.secrets)
        retired = versions.retired | {
            version: fingerprint_key(versions.secrets[version]) for version in old
        }
        payload = versions.secrets[newest] + b"".join(
            version.to_bytes(4, "big") + key for version, key in sorted(retired.items())
        )
        kek_version = await self._choose_kek(tx)
        row = self._row(tx, owner, payload, kek_version=kek_version, version=newest)
        await tx.execute(delete(KeyRow).where(KeyRow.id == owner, KeyRow.version <= newest))
        row["created_at"] = versions.created_at
        await tx.execute(insert(KeyRow).values(row))
        tx.after_commit(lambda: self._forget([owner]))
        return len(old)

    async def load(self, tx: Tx, owners: Iterable[str]) -> dict[str, DataKey]:
        """The keys of these owners, the missing ones by one query; an owner whose key was destroyed
        or does not open is absent.
        """
        await self._hear_if_stale(tx)
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
            key_unreadable: it was destroyed or never made, or does not open.
        """
        keys = await self.load(tx, [owner])
        if owner not in keys:
            raise KeyUnreadable
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

    async def watch(self, tx: Tx) -> None:
        """Hear what was changed beside this process: newer keys, and how data is stored."""
        asked_at = time.monotonic()
        statement = select(ServerStateRow.name, ServerStateRow.value)
        rows = await tx.all(statement.where(ServerStateRow.name.in_(_WATCHED)))
        state = {row.name: row.value for row in rows}
        self._learn(state)
        self._learn_forms(state)
        generation = state.get(GENERATION_NAME)
        if generation != self._generation or self._is_stale(asked_at):
            self._cache.clear()
        self._generation = generation
        self._heard_at = asked_at

    async def note_forms(self, tx: Tx) -> list[Kind]:
        """At start: note how this process stores data from now on.

        Returns:
            The kinds of which rows of the other form may remain.
        """
        noted = await note_forms(
            tx, self._mark_key(), self._wanted, trusts_unmarked=self._trusts_unmarked
        )
        for name in noted.forged:
            self.report("server_state", "value", name)
        if self._trusts_unmarked:
            await self._note_marks(tx)
        return noted.mixed

    async def begin_conversion(self, tx: Tx, kind: Kind) -> str | None:
        """Every process seals from now on, as soon as it has heard, whatever its settings say.

        Returns:
            What `end_conversion` asks for; None: all is sealed already.
        """
        name = f"stored_{kind}"
        found = select(ServerStateRow.value).where(ServerStateRow.name == name)
        if await tx.scalar(found) == SEALED:
            return None
        return await set_form(tx, self._mark_key(), kind, CONVERTING)

    async def end_conversion(self, tx: Tx, kind: Kind, form: str, *, begun: str | None) -> bool:
        """`begun`: what `begin_conversion` gave, if it was called.

        Returns:
            False if a process was started meanwhile that stores otherwise.
        """
        if begun is None:
            await set_form(tx, self._mark_key(), kind, form)
            return True
        return await change_form(tx, self._mark_key(), kind, form, but_for=begun)

    async def tell_all(self, tx: Tx) -> None:
        """Let every process forget the keys that it holds: within `LEASE_SECONDS` they all have."""
        row = {"name": GENERATION_NAME, "value": random_tokens.token_hex(8)}
        await upsert(tx, ServerStateRow, [row], index=["name"], update=["value"])

    async def check_own_keys(self, tx: Tx) -> bool:
        """Whether the keys of the server itself exist and open.

        Raises:
            SettingsError: one exists and does not open.
        """
        try:
            opened = await self._open_rows(tx, [SERVER_KEY, ROOT_KEY], strict=True)
        except CiphertextInvalid:
            fault = (
                "MASTER_KEY: this is not the key that this database is encrypted with; "
                "nothing was changed, start again with the right one"
            )
            raise SettingsError([fault]) from None
        if ROOT_KEY in opened:
            root = opened[ROOT_KEY]
            self._root = root.secrets[max(root.secrets)]
            self._trusts_unmarked = _MARKS_BEGAN not in root.retired
        return len(opened) == len((SERVER_KEY, ROOT_KEY))

    async def ensure_own_keys(self, tx: Tx) -> None:
        """Make the server's key and the root unless another process was first; then check that we
        can open those.

        Raises:
            SettingsError: the other process has another MASTER_KEY, or a key was lost while others
                exist.
        """
        kek_version = await self._choose_kek(tx)
        row = self._row(tx, SERVER_KEY, os.urandom(KEY_BYTES), kek_version=kek_version)
        if await insert_ignore(tx, KeyRow, [row], index=["id", "version"]):
            await _refuse_orphans(tx)
        # A database of before it was there gets one: cursors and codes that are out end once.
        row = self._row(
            tx, ROOT_KEY, os.urandom(KEY_BYTES) + _MARKS_RECORD, kek_version=kek_version
        )
        await insert_ignore(tx, KeyRow, [row], index=["id", "version"])
        # Not from the cache and not into it: what stands here may still be rolled back.
        try:
            await self._open_rows(tx, [SERVER_KEY, ROOT_KEY], strict=True)
        except CiphertextInvalid:
            fault = "MASTER_KEY: another process has just set up this database with a different key"
            raise SettingsError([fault]) from None

    def accepts_plain(self, table: str, column: str) -> bool:
        """As `Guard`."""
        place = (table, column)
        if place not in self._kinds:
            self._kinds[place] = find_kind(table, column)
        kind = self._kinds[place]
        if kind is None or kind == "always":
            return kind is None
        form = self._forms.get(kind)
        return not self._wanted[kind] if form is None else form != SEALED

    def report(self, table: str, column: str, row: int | str) -> None:
        """As `Guard`."""
        now = time.monotonic()
        place = (table, column, row)
        if now - self._reported.get(place, -_REPORT_SECONDS) < _REPORT_SECONDS:
            return
        if len(self._reported) >= _REPORTS_KEPT:
            self._reported.clear()
        self._reported[place] = now
        self.on_invalid(table, column, row)

    def _learn(self, state: Mapping[str, str]) -> None:
        """The newer key-encryption key, while there are two."""
        newer = parse_kdfs(state).get(NEXT_NAME)
        if newer is None or newer.version in self._ciphers:
            return
        try:
            self._ciphers[newer.version] = open_link(self._kek, newer).cipher
        except CiphertextInvalid:
            self.report("server_state", "value", NEXT_NAME)

    def _learn_forms(self, state: Mapping[str, str]) -> None:
        mark_key = self._mark_key()
        for kind in KINDS:
            name = f"stored_{kind}"
            was_sealing = self._seals(kind)
            self._forms[kind] = read_form(mark_key, kind, state.get(name))
            if self._forms[kind] is None:
                self.report("server_state", "value", name)
            if self._seals(kind) and not was_sealing:
                log.warning("settings_overruled", kind=kind, by="python -m app.admin keys convert")

    def _seals(self, kind: Kind) -> bool:
        """Also in a process that was forgotten with settings of before: what it left plain would open for nobody
        once all others are sealed.
        """
        return self._wanted[kind] or self._forms.get(kind) in {SEALED, CONVERTING}

    def _mark_key(self) -> bytes:
        return self.derive("stored-forms")

    async def _note_marks(self, tx: Tx) -> None:
        """Once, for a database of before there were any."""
        await find_kdfs(tx, lock=True)  # a change of the master key waits: it writes this row too
        statement = select(KeyRow.version, KeyRow.kek_version, KeyRow.wrapped)
        for row in await tx.all(statement.where(KeyRow.id == ROOT_KEY)):
            payload = self._unwrap(ROOT_KEY, row.version, row.kek_version, row.wrapped)
            wrapped = wrap_key(
                self._ciphers[row.kek_version],
                payload + _MARKS_RECORD,
                owner=ROOT_KEY,
                version=row.version,
                kek_version=row.kek_version,
            )
            same = (KeyRow.id == ROOT_KEY) & (KeyRow.wrapped == row.wrapped)
            await tx.execute(update(KeyRow).where(same).values(wrapped=wrapped))
        self._trusts_unmarked = False

    async def _hear_if_stale(self, tx: Tx) -> None:
        if self._is_stale(time.monotonic()):
            await self.watch(tx)

    async def _choose_kek(self, tx: Tx) -> int:
        """The version to wrap with; whoever ends a change of the master key waits for this transaction.

        Raises:
            key_unreadable: the master key was changed, and this process was started with the old one.
        """
        kdfs = await find_kdfs(tx, lock=True)
        if NEXT_NAME in kdfs:
            self._learn({NEXT_NAME: kdfs[NEXT_NAME].store()})
        chosen = kdfs.get(NEXT_NAME) or kdfs.get(KDF_NAME)
        version = self._kek.version if chosen is None else chosen.version
        if version not in self._ciphers:
            raise KeyUnreadable
        return version

    def _row(
        self, tx: Tx, owner: str, payload: bytes, *, kek_version: int, version: int = 1
    ) -> dict[str, object]:
        wrapped = wrap_key(
            self._ciphers[kek_version],
            payload,
            owner=owner,
            version=version,
            kek_version=kek_version,
        )
        return {
            "id": owner,
            "version": version,
            "kek_version": kek_version,
            "wrapped": wrapped,
            "created_at": tx.now,
        }

    async def _read(self, tx: Tx, owners: Sequence[str]) -> dict[str, DataKey]:
        opened = await self._open_rows(tx, owners)
        return {
            owner: DataKey(owner, versions.secrets, guard=self, retired=versions.retired)
            for owner, versions in opened.items()
        }

    async def _open_rows(
        self, tx: Tx, owners: Sequence[str], *, strict: bool = False
    ) -> "dict[str, _Versions]":
        """All versions of these owners' keys; an owner of whom one does not open is left out.

        Raises:
            CiphertextInvalid: one does not open, and `strict`.
        """
        statement = select(
            KeyRow.id, KeyRow.version, KeyRow.kek_version, KeyRow.wrapped, KeyRow.created_at
        ).where(KeyRow.id.in_(owners))
        rows = await tx.all(statement)
        if any(row.kek_version not in self._ciphers for row in rows):
            kdfs = await find_kdfs(tx)
            self._learn({name: kdf.store() for name, kdf in kdfs.items()})
        opened: dict[str, _Versions] = {}
        damaged: set[str] = set()
        for owner, version, kek_version, wrapped, created_at in rows:
            try:
                payload = self._unwrap(owner, version, kek_version, wrapped)
            except CiphertextInvalid:
                if strict:
                    raise
                self.report("keys", "wrapped", owner)
                damaged.add(owner)
                continue
            opened.setdefault(owner, _Versions()).add(version, payload, created_at)
        return {owner: found for owner, found in opened.items() if owner not in damaged}

    def _unwrap(self, owner: str, version: int, kek_version: int, wrapped: bytes) -> bytes:
        cipher = self._ciphers.get(kek_version)
        if cipher is None:
            msg = "keys.wrapped is under a key that is not known"
            raise CiphertextInvalid(msg)
        return unwrap_key(cipher, wrapped, owner=owner, version=version, kek_version=kek_version)

    def _is_stale(self, now: float) -> bool:
        return self._heard_at is not None and now - self._heard_at > LEASE_SECONDS

    def _cached(self, owner: str) -> DataKey | None:
        key = self._cache.get(owner)
        if key is None or self._is_stale(time.monotonic()):
            return None
        # Evicted meanwhile, perhaps: groups of writes run on another thread, see `Connections.write_through`.
        with suppress(KeyError):
            self._cache.move_to_end(owner)
        return key

    def _remember(self, keys: Mapping[str, DataKey]) -> None:
        self._cache.update(keys)
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)

    def _forget(self, owners: Iterable[str]) -> None:
        for owner in owners:
            self._cache.pop(owner, None)


class _Versions:
    """An owner's key, unwrapped: `version -> secret`, and the fingerprint keys of retired ones."""

    def __init__(self) -> None:
        self.secrets: dict[int, bytes] = {}
        self.retired: dict[int, bytes] = {}
        self.created_at: object = None

    def add(self, version: int, payload: bytes, created_at: object) -> None:
        self.created_at = created_at if version >= max(self.secrets, default=0) else self.created_at
        self.secrets[version] = payload[:KEY_BYTES]
        records = payload[KEY_BYTES:]
        for start in range(0, len(records), _RECORD_BYTES):
            record = records[start : start + _RECORD_BYTES]
            self.retired[int.from_bytes(record[:4], "big")] = record[4:]


def _log_invalid(table: str, column: str, row: int | str) -> None:
    """Until somebody listens."""
    log.warning("ciphertext_invalid", table=table, column=column, row=row)


async def _create_kdf(tx: Tx, rounds: int) -> None:
    row = {"name": KDF_NAME, "value": new_kdf(1, rounds).store()}
    if await insert_ignore(tx, ServerStateRow, [row], index=["name"]):
        await _refuse_orphans(tx)


async def _refuse_orphans(tx: Tx) -> None:
    """Never start anew over data that was sealed under keys or a set-up which are gone."""
    others = select(KeyRow.id).where(KeyRow.id.not_in([SERVER_KEY, ROOT_KEY])).limit(1)
    if await tx.scalar(others) is not None:
        fault = (
            "MASTER_KEY: this database holds encrypted data but has lost the row that its keys "
            "depend on; restore it from a backup"
        )
        raise SettingsError([fault])
    sealed = [
        select(place.row_id).where(place.column.is_not(None)).exists() for place in list_places()
    ]
    if sealed and await tx.scalar(select(or_(*sealed))):
        fault = (
            "MASTER_KEY: this database holds data and no keys; put them back by "
            "`python -m app.admin keys restore`"
        )
        raise SettingsError([fault])
