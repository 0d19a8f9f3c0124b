"""Sign-ins between their two factors: a `password_token` opens nothing but the second step."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, insert, select, update

from app.features.auth.errors import PasswordTokenExpired
from app.features.auth.models import PasswordTokenRow
from app.features.auth.tries import TRIES_A_TOKEN
from app.infra.cipher.keyring import Keyring, user_key
from app.infra.database.tx import Tx
from app.infra.tokens.opaque import Purpose, hash_token, new_token
from app.kernel.ids import UserId

TOKEN_LIFETIME = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class HalfSignedIn:
    """What a password token stands for."""

    hash: bytes
    user_id: UserId
    device_name: str | None
    attempts_left: int


async def create_password_token(
    tx: Tx, keyring: Keyring, *, user_id: UserId, device_name: str | None
) -> str:
    token = new_token(Purpose.PASSWORD)
    token_hash = _hash(token)
    key = await keyring.require(tx, user_key(user_id))
    await tx.execute(
        insert(PasswordTokenRow).values(
            hash=token_hash,
            user_id=user_id,
            device_name=key.seal_text(
                device_name,
                table="password_tokens",
                column="device_name",
                row_id=_row_id(token_hash),
            ),
            attempts=0,
            created_at=tx.now,
            expires_at=tx.now + TOKEN_LIFETIME,
        )
    )
    return token


async def find_owner(tx: Tx, token: str) -> UserId:
    """Whose sign-in it is, for taking the lock of the person's scope.

    Raises:
        password_token_expired
    """
    user_id = await tx.scalar(
        select(PasswordTokenRow.user_id).where(
            PasswordTokenRow.hash == _hash(token), PasswordTokenRow.expires_at > tx.now
        )
    )
    if user_id is None:
        raise PasswordTokenExpired
    return user_id


async def take_attempt(tx: Tx, keyring: Keyring, token: str) -> HalfSignedIn:
    """One of the tries of this token.

    Raises:
        password_token_expired
    """
    row = await tx.first(
        update(PasswordTokenRow)
        .where(
            PasswordTokenRow.hash == _hash(token),
            PasswordTokenRow.expires_at > tx.now,
            PasswordTokenRow.attempts < TRIES_A_TOKEN,
        )
        .values(attempts=PasswordTokenRow.attempts + 1)
        .returning(
            PasswordTokenRow.hash,
            PasswordTokenRow.user_id,
            PasswordTokenRow.device_name,
            PasswordTokenRow.attempts,
        )
    )
    if row is None:
        raise PasswordTokenExpired
    key = await keyring.require(tx, user_key(row.user_id))
    device_name = key.find_text(
        row.device_name, table="password_tokens", column="device_name", row_id=_row_id(row.hash)
    )
    return HalfSignedIn(row.hash, row.user_id, device_name, TRIES_A_TOKEN - row.attempts)


async def return_attempt(tx: Tx, token_hash: bytes) -> None:
    """It was never looked at."""
    await tx.execute(
        update(PasswordTokenRow)
        .where(PasswordTokenRow.hash == token_hash, PasswordTokenRow.attempts > 0)
        .values(attempts=PasswordTokenRow.attempts - 1)
    )


async def use_password_token(tx: Tx, token_hash: bytes) -> None:
    """Of parallel uses one wins.

    Raises:
        password_token_expired
    """
    used = delete(PasswordTokenRow).where(
        PasswordTokenRow.hash == token_hash, PasswordTokenRow.expires_at > tx.now
    )
    if await tx.execute(used) != 1:
        raise PasswordTokenExpired


def _hash(token: str) -> bytes:
    token_hash = hash_token(token, Purpose.PASSWORD)
    if token_hash is None:
        raise PasswordTokenExpired
    return token_hash


def _row_id(token_hash: bytes) -> int:
    """The row's place for the associated data, which takes numbers; 56 bits of the hash."""
    return int.from_bytes(token_hash[:7], "big")
