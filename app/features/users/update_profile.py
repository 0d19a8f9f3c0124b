"""Changing my own account. Others see the change when they read me next; my devices are told."""

import re
from typing import TypedDict, cast

from sqlalchemy import delete, update

from app.features.files.photos import change_photo
from app.features.updates.log import lock_scopes
from app.features.users.errors import UsernameTaken, UserNotFound
from app.features.users.me import load_me
from app.features.users.models import UsernameRow, UserRow
from app.features.users.names import replace_name_tokens
from app.features.users.people import Person, SealedColumn, load_people, reseal_fields
from app.features.users.views import MeView
from app.infra.cipher.blind_index import BlindIndex, choose_index
from app.infra.cipher.keyring import Keyring
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.infra.database.upsert import insert_ignore
from app.kernel.ids import FileId, UserId
from app.kernel.problems import FieldError, Invalid
from app.kernel.scopes import user_scope
from app.kernel.text import check_username, clean_about, clean_name

MAX_BIO_LENGTH = 140
LANGUAGE_PATTERN = r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}$"

_LANGUAGE = re.compile(LANGUAGE_PATTERN)
_SEALED: tuple[SealedColumn, ...] = ("first_name", "last_name", "bio")


class ProfileChanges(TypedDict, total=False):
    """What is absent stays as it is; None empties."""

    first_name: str
    last_name: str | None
    bio: str | None
    username: str | None
    language: str | None
    photo: FileId | None


async def update_profile(
    db: Database, keyring: Keyring, index: BlindIndex, *, user_id: UserId, changes: ProfileChanges
) -> MeView:
    """Raises:
    name_invalid, text_invalid, username_invalid, validation_error, username_taken, file_not_found,
    photo_invalid
    """
    _check(changes)

    async def work(tx: Tx) -> MeView:
        log = await lock_scopes(tx, [user_scope(user_id)])
        people = await load_people(tx, keyring, [user_id])
        person = people.get(user_id)
        if person is None or person.is_deleted:
            raise UserNotFound
        before = {
            "first_name": person.first_name,
            "last_name": person.last_name,
            "bio": person.bio,
            "username": person.username,
            "language": person.language,
            "photo": person.photo_id,
        }
        changed = {name: value for name, value in changes.items() if value != before[name]}
        if not changed:
            return await load_me(tx, keyring, user_id=user_id)
        if "username" in changed:
            await _claim_username(
                tx, user_id, old=person.username, new=cast("str | None", changed["username"])
            )
        await _store(tx, keyring, person, cast("ProfileChanges", changed))
        if changed.keys() & {"first_name", "last_name"}:
            after = before | changed
            await replace_name_tokens(
                tx,
                await choose_index(tx, index),
                user_id,
                first_name=cast("str", after["first_name"]),
                last_name=cast("str | None", after["last_name"]),
            )
        log.append(user_scope(user_id), "profile_updated")
        return await load_me(tx, keyring, user_id=user_id)

    return await db.write(work)


def _check(changes: ProfileChanges) -> None:
    if "first_name" in changes:
        clean_name(changes["first_name"], field="first_name")
    if last_name := changes.get("last_name"):
        clean_name(last_name, field="last_name")
    if bio := changes.get("bio"):
        clean_about(bio, field="bio", max_length=MAX_BIO_LENGTH)
    username = changes.get("username")
    if username is not None:
        check_username(username)
    language = changes.get("language")
    if language is not None and not _LANGUAGE.fullmatch(language):
        raise Invalid(errors=[FieldError("language", 'must be a language tag such as "pt-BR"')])


async def _claim_username(tx: Tx, user_id: UserId, *, old: str | None, new: str | None) -> None:
    """Take `new` in the namespace that users and chats share, and give `old` back."""
    old_key = old.lower() if old else None
    new_key = check_username(new) if new else None
    if old_key == new_key:
        return  # only the case of a letter changes
    if old_key is not None:
        await tx.execute(
            delete(UsernameRow).where(
                UsernameRow.name_key == old_key, UsernameRow.user_id == user_id
            )
        )
    if new_key is not None:
        row = {"name_key": new_key, "user_id": user_id, "chat_id": None}
        if not await insert_ignore(tx, UsernameRow, [row], index=["name_key"]):
            raise UsernameTaken


async def _store(tx: Tx, keyring: Keyring, person: Person, changed: ProfileChanges) -> None:
    texts: dict[SealedColumn, str | None] = {
        column: changed.get(column) for column in _SEALED if column in changed
    }
    values: dict[str, object] = {
        name: changed.get(name) for name in ("username", "language") if name in changed
    }
    if texts:
        values |= await reseal_fields(tx, keyring, person, texts)
    if "photo" in changed:
        values["photo_id"] = changed["photo"]
        await change_photo(
            tx,
            keyring,
            kind="user",
            subject_id=person.id,
            owner_id=person.id,
            shown=person.photo_id,
            wanted=changed["photo"],
        )
    await tx.execute(update(UserRow).where(UserRow.id == person.id).values(values))
