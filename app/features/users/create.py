"""Accounts begin here: a random id, a data key, a scope of updates, and a name to be found by."""

import secrets

from sqlalchemy import insert, select

from app.features.updates.log import create_scopes
from app.features.users.models import UserRow
from app.features.users.names import replace_name_tokens
from app.features.users.people import seal_fields
from app.infra.cipher.blind_index import BlindIndex, choose_index
from app.infra.cipher.keyring import Keyring, user_key
from app.infra.database.tx import Tx
from app.kernel.ids import MAX_USER_ID, UserId
from app.kernel.scopes import user_scope
from app.kernel.text import clean_name


async def create_user(
    tx: Tx,
    keyring: Keyring,
    index: BlindIndex,
    *,
    phone: str,
    first_name: str,
    last_name: str | None,
) -> UserId:
    """A new account for `phone` (E.164); the existing one if another device was faster.

    Raises:
        name_invalid
    """
    clean_name(first_name, field="first_name")
    if last_name:
        clean_name(last_name, field="last_name")
    await tx.lock_names([f"phone:{digest.hex()}" for digest in index.phones(phone)])
    existing = await find_user_by_phone(tx, index, phone)
    if existing is not None:
        return existing
    user_id = await _choose_id(tx)
    written = await choose_index(tx, index)
    key = await keyring.create(tx, user_key(user_id))
    sealed = seal_fields(
        keyring,
        key,
        user_id,
        {"phone": phone, "first_name": first_name, "last_name": last_name},
    )
    await tx.execute(
        insert(UserRow).values(
            id=user_id,
            phone_index=written.phone(phone),
            privacy={},
            created_at=tx.now,
            **sealed,
        )
    )
    await create_scopes(tx, [user_scope(user_id)])
    await replace_name_tokens(tx, written, user_id, first_name=first_name, last_name=last_name)
    return user_id


async def find_user_by_phone(tx: Tx, index: BlindIndex, phone: str) -> UserId | None:
    """The account of an E.164 number; deleted ones have none."""
    return await tx.scalar(
        select(UserRow.id).where(
            UserRow.phone_index.in_(index.phones(phone)), UserRow.deleted_at.is_(None)
        )
    )


async def _choose_id(tx: Tx) -> UserId:
    """Random, so that ids tell neither how many accounts there are nor when one was made."""
    while True:
        user_id = UserId(secrets.randbelow(MAX_USER_ID) + 1)
        if await tx.scalar(select(UserRow.id).where(UserRow.id == user_id)) is None:
            return user_id
