"""Blind indexes: equality look-ups over encrypted columns, keyed by INDEX_KEY.

The key is never derived from MASTER_KEY, so that rotating that one leaves indexes alone, and is in
no database: there are about 10^10 phone numbers, so the key is the whole protection.
"""

import hashlib
import hmac

from sqlalchemy import select

from app.infra.database.database import Database
from app.infra.database.tables import ServerStateRow
from app.infra.database.tx import Tx
from app.infra.database.upsert import insert_ignore
from app.settings import SettingsError

INDEX_BYTES = 16

_CHECK_NAME = "index_key_check"
_WRONG_KEY = (
    "INDEX_KEY: this is not the key that the indexes of this database were made with; "
    "nothing was changed, start again with the right one"
)


class BlindIndex:
    """HMAC-SHA256 cut to 128 bits; each kind of value has a space of its own."""

    def __init__(self, index_key: bytes) -> None:
        self._key = hashlib.sha256(index_key).digest()

    def phone(self, e164: str) -> bytes:
        """`e164`: `+` and digits."""
        return self._digest("phone", e164)

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

    def _digest(self, kind: str, value: str) -> bytes:
        return hmac.digest(self._key, f"{kind}|{value}".encode(), hashlib.sha256)[:INDEX_BYTES]


async def open_blind_index(db: Database, index_key: bytes) -> BlindIndex:
    """The blind indexes of this database; the first start notes a check value of the key.

    Raises:
        SettingsError: INDEX_KEY is not the one of this database: nobody would be found again, and
            every phone could register twice.
    """
    index = BlindIndex(index_key)
    check = index.check_value()
    stored = await db.read(_find_check) or await db.write(lambda tx: _keep_check(tx, check))
    if stored != check:
        raise SettingsError([_WRONG_KEY])
    return index


async def prove_index_key(db: Database, index_key: bytes) -> None:
    """As `open_blind_index`, for a database that was set up before; reads only."""
    stored = await db.read(_find_check)
    if stored is not None and stored != BlindIndex(index_key).check_value():
        raise SettingsError([_WRONG_KEY])


async def _find_check(tx: Tx) -> str | None:
    return await tx.scalar(select(ServerStateRow.value).where(ServerStateRow.name == _CHECK_NAME))


async def _keep_check(tx: Tx, check: str) -> str | None:
    row = {"name": _CHECK_NAME, "value": check}
    await insert_ignore(tx, ServerStateRow, [row], index=["name"])
    return await _find_check(tx)
