"""Blind indexes: equality look-ups over encrypted columns, keyed by INDEX_KEY.

The key is never derived from MASTER_KEY, so that rotating that one leaves indexes alone, and is in
no database: there are about 10^10 phone numbers, so the key is the whole protection.

While the key is being changed (INDEX_KEY_NEW) two are known: rows are looked up under both, and written
under the newer one from the moment on at which the rebuild has begun.
"""

import hashlib
import hmac
from collections.abc import Mapping

from sqlalchemy import delete, select

from app.infra.cipher.keyring import KeyUnreadable
from app.infra.cipher.models import KeyRow
from app.infra.database.database import Database
from app.infra.database.tables import ServerStateRow
from app.infra.database.tx import Tx
from app.infra.database.upsert import insert_ignore
from app.settings import SettingsError

INDEX_BYTES = 16

CHECK_NAME = "index_key_check"
NEXT_NAME = "index_key_next"
OLD_NAME = "index_key_old"
# Which newer key all servers know that were started last.
KNOWN_NAME = "index_key_known"
_NAMES = (CHECK_NAME, NEXT_NAME, OLD_NAME, KNOWN_NAME)
_WRONG_KEY = (
    "INDEX_KEY: this is not the key that the indexes of this database were made with; "
    "nothing was changed, start again with the right one"
)
_UNDER_WAY = (
    "INDEX_KEY: the indexes are being made anew; start with the old INDEX_KEY and with the other one "
    "as INDEX_KEY_NEW until `python -m app.admin keys rebuild-index` has ended"
)


class BlindIndex:
    """HMAC-SHA256 cut to 128 bits; each kind of value has a space of its own."""

    def __init__(self, index_key: bytes, newer_key: bytes | None = None) -> None:
        self._key = hashlib.sha256(index_key).digest()
        self.newer = None if newer_key is None else BlindIndex(newer_key)

    def phone(self, e164: str) -> bytes:
        """`e164`: `+` and digits."""
        return self._digest("phone", e164)

    def phones(self, e164: str) -> list[bytes]:
        """Under every key that rows may be under."""
        return [index.phone(e164) for index in self.all()]

    def phone_prefix(self, prefix: str) -> bytes:
        """The range of numbers that a phone belongs to; see the limits of sign-in."""
        return self._digest("phone_prefix", prefix)

    def name_prefix(self, prefix: str) -> bytes:
        """`prefix`: the folded beginning of a word of a name."""
        return self._digest("name_prefix", prefix)

    def address(self, network: str) -> bytes:
        """`network`: what limits count as one client, see `kernel.addresses`."""
        return self._digest("address", network)

    def check_value(self) -> str:
        """Tells two keys apart and tells nothing else of them."""
        return self._digest("check", "").hex()

    def all(self) -> "list[BlindIndex]":
        """This one, and the newer one if there is one."""
        return [self] if self.newer is None else [self, self.newer]

    def _digest(self, kind: str, value: str) -> bytes:
        return hmac.digest(self._key, f"{kind}|{value}".encode(), hashlib.sha256)[:INDEX_BYTES]


async def open_blind_index(
    db: Database, index_key: bytes, newer_key: bytes | None = None
) -> BlindIndex:
    """The blind indexes of this database; the first start notes a check value of the key.

    Raises:
        SettingsError: INDEX_KEY is not the one of this database: nobody would be found again, and
            every phone could register twice.
    """
    index = BlindIndex(index_key, newer_key)
    check = index.check_value()
    state = await db.read(find_index_state)
    if CHECK_NAME not in state:
        await db.read(_refuse_accounts)
        state = await db.write(lambda tx: _keep_check(tx, check))
    _judge(index, state)
    known = None if index.newer is None else index.newer.check_value()
    if state.get(KNOWN_NAME) != known:
        await db.write(lambda tx: _note_known(tx, known))
    return index


async def prove_index_key(db: Database, index_key: bytes, newer_key: bytes | None = None) -> None:
    """As `open_blind_index`, for a database that was set up before; reads only."""
    state = await db.read(find_index_state)
    if CHECK_NAME in state:
        _judge(BlindIndex(index_key, newer_key), state)


async def choose_index(tx: Tx, index: BlindIndex) -> BlindIndex:
    """What rows are to be written under; whoever begins a rebuild waits for this transaction.

    Raises:
        key_unreadable: a rebuild was begun under a key that this process was not started with. It finds
            nobody whom that has moved, and would let their phones register twice.
    """
    state = await find_index_state(tx, lock=True)
    wanted = state.get(NEXT_NAME, state.get(CHECK_NAME))
    for known in index.all():
        if wanted in {None, known.check_value()}:
            return known
    raise KeyUnreadable


async def find_index_state(tx: Tx, *, lock: bool = False) -> dict[str, str]:
    """Rows of `server_state`. `lock`: they stay as they are to the end of the transaction."""
    statement = select(ServerStateRow.name, ServerStateRow.value).where(
        ServerStateRow.name.in_(_NAMES)
    )
    if lock:
        statement = statement.with_for_update(read=True)
    return {row.name: row.value for row in await tx.all(statement)}


def _judge(index: BlindIndex, state: Mapping[str, str]) -> None:
    """Raises:
    SettingsError: rows would be looked up under a key that they are not under.
    """
    own = index.check_value()
    newer = None if index.newer is None else index.newer.check_value()
    if NEXT_NAME in state:
        if (own, newer) != (state[CHECK_NAME], state[NEXT_NAME]):
            is_one = own in {state[CHECK_NAME], state[NEXT_NAME]}
            raise SettingsError([_UNDER_WAY if is_one else _WRONG_KEY])
        return
    is_changed = newer == state[CHECK_NAME] and own == state.get(OLD_NAME)
    if own != state[CHECK_NAME] and not is_changed:
        raise SettingsError([_WRONG_KEY])


async def _refuse_accounts(tx: Tx) -> None:
    """Never start anew over accounts: with another key nobody would be found again."""
    if await tx.scalar(select(KeyRow.id).where(KeyRow.id.startswith("user:")).limit(1)) is not None:
        fault = (
            "INDEX_KEY: this database holds accounts but has lost the row that proves the key; "
            "restore it from a backup"
        )
        raise SettingsError([fault])


async def _keep_check(tx: Tx, check: str) -> dict[str, str]:
    row = {"name": CHECK_NAME, "value": check}
    await insert_ignore(tx, ServerStateRow, [row], index=["name"])
    return await find_index_state(tx)


async def _note_known(tx: Tx, known: str | None) -> None:
    await tx.execute(delete(ServerStateRow).where(ServerStateRow.name == KNOWN_NAME))
    if known is not None:
        row = {"name": KNOWN_NAME, "value": known}
        await insert_ignore(tx, ServerStateRow, [row], index=["name"])
