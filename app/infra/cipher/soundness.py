"""Whether MASTER_KEY and INDEX_KEY are those of this database. Reads only."""

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from app.infra.cipher.blind_index import prove_index_key
from app.infra.cipher.kek import KDF_NAME, Kek, find_kdfs, has_keys, prove_master_key, rounds_fault
from app.infra.database.database import Database, open_database
from app.infra.database.errors import CONNECT_ERRORS
from app.infra.secrets import DataKeys, load_data_keys
from app.kernel.clock import SystemClock
from app.kernel.problems import Unavailable
from app.settings import Settings, SettingsError


async def prove_data_keys(db: Database, keys: DataKeys, *, least_rounds: int = 1) -> Kek:
    """The key-encryption key of a database that was set up before.

    Raises:
        SettingsError: a key is another one, or was made with fewer than `least_rounds`; lists all.
    """
    faults: list[str] = []
    kek: Kek | None = None
    kdf = (await db.read(find_kdfs)).get(KDF_NAME)
    if kdf is not None:
        faults += rounds_fault(kdf, least_rounds)
    try:
        kek = await prove_master_key(db, keys.master_key)
    except SettingsError as error:
        faults += error.faults
    try:
        await prove_index_key(db, keys.index_key, keys.index_key_new)
    except SettingsError as error:
        faults += error.faults
    if faults or kek is None:
        raise SettingsError(faults)
    return kek


async def list_key_faults(settings: Settings, *, least_rounds: int) -> list[str]:
    """What `prove_data_keys` finds; of a database that is new there is nothing to prove."""
    if settings.database.type == "sqlite" and not settings.sqlite_path.exists():
        return []
    db = open_database(settings, SystemClock())
    try:
        if await has_keys(db):
            await prove_data_keys(db, load_data_keys(settings), least_rounds=least_rounds)
    except SettingsError as error:
        return error.faults
    except (*CONNECT_ERRORS, DBAPIError, SQLAlchemyError, Unavailable) as error:
        return [f"DATABASE_URL: the database does not answer ({type(error).__name__})"]
    finally:
        await db.close()
    return []
