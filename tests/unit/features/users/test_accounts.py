"""Accounts: made once a phone, changed by their person, sealed in storage."""

import asyncio

import pytest
from sqlalchemy import delete, func, select, text, update

from app.features.updates.models import ScopeRow
from app.features.users.create import create_user, find_user_by_phone
from app.features.users.errors import UsernameTaken, UserNotFound
from app.features.users.me import get_me
from app.features.users.models import UserNameTokenRow, UserRow
from app.features.users.rebuild_index import begin_rebuild, finish_rebuild, rebuild_index
from app.features.users.senders import load_senders
from app.features.users.update_profile import update_profile
from app.infra.cipher.blind_index import CHECK_NAME, BlindIndex, open_blind_index
from app.infra.cipher.keyring import KeyUnreadable, user_key
from app.infra.database.tables import ServerStateRow
from app.infra.database.tx import Tx
from app.kernel.ids import MAX_USER_ID, UserId
from app.kernel.problems import Invalid
from app.kernel.text import NameInvalid, UsernameInvalid
from app.settings import SettingsError
from tests.support.town import Town

pytestmark = pytest.mark.anyio


async def change(town: Town, user_id: UserId, **changes: str | None) -> dict[str, object]:
    view = await update_profile(town.db, town.keyring, town.index, user_id=user_id, changes=changes)
    return dict(view)


async def delete_account(town: Town, user_id: UserId) -> None:
    """What deletion leaves: an emptied row, and no key."""

    async def work(tx: Tx) -> None:
        await tx.execute(
            update(UserRow)
            .where(UserRow.id == user_id)
            .values(deleted_at=tx.now, phone_index=None, username=None)
        )
        await town.keyring.destroy(tx, [user_key(user_id)])

    await town.db.write(work)


async def test_a_new_account_has_an_id_a_scope_and_is_found_by_phone(town: Town) -> None:
    user_id = await town.settle("Anna", "Schmidt")
    assert 1 <= user_id <= MAX_USER_ID
    me = await get_me(town.db, town.keyring, user_id=user_id)
    assert (me["first_name"], me["last_name"]) == ("Anna", "Schmidt")
    assert (me["phone"], me["username"], me["bio"]) == (town.phones[user_id], None, None)

    async def look(tx: Tx) -> tuple[object, object]:
        found = await find_user_by_phone(tx, town.index, town.phones[user_id])
        seq = await tx.scalar(select(ScopeRow.seq).where(ScopeRow.id == user_id))
        return found, seq

    assert await town.db.read(look) == (user_id, 0)


async def test_a_phone_that_signs_up_twice_at_once_gets_one_account(town: Town) -> None:
    async def sign_up(tx: Tx) -> UserId:
        return await create_user(
            tx, town.keyring, town.index, phone="+491701", first_name="A", last_name=None
        )

    ids = await asyncio.gather(*(town.db.write(sign_up) for _ in range(5)))
    assert len(set(ids)) == 1
    assert await town.db.read(lambda tx: tx.scalar(select(func.count()).select_from(UserRow))) == 1


async def test_an_account_needs_a_name_people_can_see(town: Town) -> None:
    with pytest.raises(NameInvalid):
        await town.settle("\u200b")
    with pytest.raises(NameInvalid):
        await town.settle("Anna", "a\u202eb")


async def test_nothing_personal_is_stored_in_the_clear(town: Town) -> None:
    anna = await town.settle("Marker-first", "Marker-last")
    bruno = await town.settle()
    await change(town, anna, bio="Marker-bio")
    await town.dial(bruno, town.phones[anna], first_name="Marker-saved")
    stored: list[object] = []
    for table in ("users", "contacts", "user_name_tokens", "phone_lookups", "keys", "updates"):
        query = text(f"SELECT * FROM {table}")
        for row in await town.db.read(lambda tx, query=query: tx.all(query)):
            stored += row
    everything = b"\n".join(
        bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()
        for value in stored
    )
    assert b"arker" not in everything.lower()
    assert town.phones[anna].strip("+").encode() not in everything


async def test_only_what_is_sent_changes(town: Town) -> None:
    anna = await town.settle("Anna", "Schmidt")
    await change(town, anna, bio="Hi\nthere", username="Anna_S", language="pt-BR")
    me = await change(town, anna, last_name=None)
    assert (me["first_name"], me["last_name"], me["bio"]) == ("Anna", None, "Hi\nthere")
    assert (me["username"], me["language"]) == ("Anna_S", "pt-BR")
    assert (await change(town, anna, username=None))["username"] is None


async def test_a_change_is_told_to_my_devices_and_repeating_it_is_not(town: Town) -> None:
    anna = await town.settle()
    for _ in range(3):
        await change(town, anna, first_name="Anne")
    await change(town, anna)
    assert [update.type for update in await town.updates_of(anna)] == ["profile_updated"]


async def test_a_wrong_value_changes_nothing(town: Town) -> None:
    anna = await town.settle()
    before = await get_me(town.db, town.keyring, user_id=anna)
    wrong: list[tuple[dict[str, str], type[Invalid]]] = [
        ({"first_name": " "}, NameInvalid),
        ({"last_name": "a\nb"}, NameInvalid),
        ({"bio": "x" * 141}, Invalid),
        ({"username": "admin"}, UsernameInvalid),
        ({"username": ""}, UsernameInvalid),
        ({"language": "english please"}, Invalid),
    ]
    for changes, problem in wrong:
        with pytest.raises(problem):
            await change(town, anna, **{"first_name": "New", **changes})
        assert await get_me(town.db, town.keyring, user_id=anna) == before


async def test_a_username_is_taken_by_the_first_and_free_again_after_them(town: Town) -> None:
    anna, bruno = await town.settle_many(2)
    await change(town, anna, username="Wanted")
    with pytest.raises(UsernameTaken):
        await change(town, bruno, username="wanted", first_name="Bruno")
    assert (await get_me(town.db, town.keyring, user_id=bruno))["first_name"] == "Anna"
    assert (await change(town, anna, username="wAnted"))["username"] == "wAnted"
    await change(town, anna, username="other")
    assert (await change(town, bruno, username="WANTED"))["username"] == "WANTED"


async def test_a_username_asked_for_by_many_at_once_goes_to_one(town: Town) -> None:
    people = await town.settle_many(5)
    outcomes = await asyncio.gather(
        *(change(town, user_id, username="wanted") for user_id in people), return_exceptions=True
    )
    assert sum(isinstance(outcome, UsernameTaken) for outcome in outcomes) == 4


async def test_two_who_swap_usernames_at_once_do_not_hang(town: Town) -> None:
    anna, bruno = await town.settle_many(2)
    await change(town, anna, username="first")
    await change(town, bruno, username="second")
    outcomes = await asyncio.gather(
        change(town, anna, username="second"),
        change(town, bruno, username="first"),
        return_exceptions=True,
    )
    assert all(isinstance(it, dict | UsernameTaken) for it in outcomes)


async def test_a_new_name_is_found_and_the_old_one_is_not(town: Town) -> None:
    viewer, anna = await town.settle("Viewer"), await town.settle("Anna", "Schmidt")
    await town.befriend(viewer, anna)
    await change(town, anna, last_name="Müller")
    assert await town.find(viewer, "schm") == []
    assert await town.find(viewer, "mull ann") == [anna]
    assert (await town.see(viewer, anna)).last_name == "Müller"


async def test_a_deleted_account_keeps_its_id_and_nothing_else(town: Town) -> None:
    viewer, anna = await town.settle_many(2)
    await change(town, anna, bio="Bio")
    await town.befriend(viewer, anna)
    await delete_account(town, anna)
    profile = await town.see(viewer, anna)
    assert profile.is_deleted
    assert (profile.first_name, profile.bio, profile.phone) == ("", None, None)
    assert not profile.sees_presence
    senders = await town.db.read(lambda tx: load_senders(tx, town.keyring, [anna, viewer]))
    assert senders[anna] == {
        "id": anna,
        "first_name": "",
        "last_name": None,
        "username": None,
        "is_deleted": True,
    }
    assert senders[viewer]["is_deleted"] is False


async def test_an_id_of_nobody_is_not_found_but_stands_as_a_deleted_sender(town: Town) -> None:
    anna, nobody = await town.settle(), UserId(5)
    with pytest.raises(UserNotFound):
        await town.see(anna, nobody)
    senders = await town.db.read(lambda tx: load_senders(tx, town.keyring, [nobody]))
    assert senders[nobody]["is_deleted"]


async def test_a_long_name_costs_a_bounded_number_of_tokens(town: Town) -> None:
    anna = await town.settle("x" * 64, " ".join("abcdefghijklmnopqrstuvwxyz"))
    count = await town.db.read(
        lambda tx: tx.scalar(
            select(func.count())
            .select_from(UserNameTokenRow)
            .where(UserNameTokenRow.user_id == anna)
        )
    )
    assert count is not None
    assert count <= 16 * 16


OLD, NEW = b"o" * 32, b"n" * 32


async def claim(town: Town, index: BlindIndex, phone: str) -> UserId:
    async def work(tx: Tx) -> UserId:
        return await create_user(
            tx, town.keyring, index, phone=phone, first_name="Anna", last_name=None
        )

    return await town.db.write(work)


async def test_a_server_that_lacks_the_newer_index_key_lets_no_phone_register_twice(
    town: Town,
) -> None:
    """It was forgotten when the others were started with both keys."""
    both = await open_blind_index(town.db, OLD, NEW)
    forgotten, newer = BlindIndex(OLD), BlindIndex(NEW)
    town.index = forgotten
    anna = await town.settle()
    assert await begin_rebuild(town.db, forgotten, newer)
    await rebuild_index(town.db, town.keyring, newer, on_progress=lambda _: None)

    async def expect_refusal() -> None:
        for phone in (town.phones[anna], town.next_phone()):
            with pytest.raises(KeyUnreadable):
                await claim(town, forgotten, phone)
        with pytest.raises(KeyUnreadable):
            await change(town, anna, first_name="Other")
        assert await town.db.read(lambda tx: tx.scalar(select(func.count(UserRow.id)))) == 1

    await expect_refusal()
    assert await claim(town, both, town.phones[anna]) == anna
    await finish_rebuild(town.db, forgotten, newer)
    await expect_refusal()
    assert await claim(town, newer, town.phones[anna]) == anna


async def test_accounts_without_the_proof_of_their_index_key_refuse_the_start(town: Town) -> None:
    town.index = await open_blind_index(town.db, OLD)
    await town.settle()
    await town.db.write(
        lambda tx: tx.execute(delete(ServerStateRow).where(ServerStateRow.name == CHECK_NAME))
    )
    for key in (OLD, NEW):
        with pytest.raises(SettingsError, match=r"INDEX_KEY: this database holds accounts"):
            await open_blind_index(town.db, key)
