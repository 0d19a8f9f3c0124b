"""What higher slices are told about people."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
from sqlalchemy import update

from app.features.users.access import (
    find_existing,
    is_blocked,
    load_privacy,
    may_add_to_groups,
    may_call,
    require_user,
)
from app.features.users.block import block_user
from app.features.users.errors import UserNotFound
from app.features.users.models import UserRow
from app.features.users.policy import Audience, Privacy
from app.features.users.privacy import update_privacy
from app.infra.database.tx import Tx
from app.kernel.ids import UserId
from tests.support.town import Town

pytestmark = pytest.mark.anyio
T = TypeVar("T")
NEVER = UserId(999_999_999_999)


async def ask(town: Town, question: Callable[[Tx], Coroutine[Any, Any, T]]) -> T:
    return await town.db.read(question)


async def erase(town: Town, user_id: UserId) -> None:
    """As the deletion of an account leaves the row."""

    async def work(tx: Tx) -> None:
        row = update(UserRow).where(UserRow.id == user_id)
        await tx.execute(row.values(deleted_at=tx.now))

    await town.db.write(work)


async def test_who_is_deleted_or_never_was_does_not_exist(town: Town) -> None:
    anna, bruno = await town.settle_many(2)
    await erase(town, bruno)
    await ask(town, lambda tx: require_user(tx, anna))
    for user_id in (bruno, NEVER):
        with pytest.raises(UserNotFound):
            await ask(town, lambda tx, user_id=user_id: require_user(tx, user_id))
    assert await ask(town, lambda tx: find_existing(tx, [anna, bruno, NEVER, anna])) == {anna}
    assert await ask(town, lambda tx: find_existing(tx, [])) == set()
    assert await ask(town, lambda tx: may_add_to_groups(tx, anna, [bruno, NEVER])) == set()
    for user_id in (bruno, NEVER):
        assert not await ask(town, lambda tx, user_id=user_id: may_call(tx, anna, user_id))


async def test_a_block_has_a_direction(town: Town) -> None:
    anna, bruno = await town.settle_many(2)
    await block_user(town.db, town.keyring, blocker=anna, user_id=bruno)
    assert await ask(town, lambda tx: is_blocked(tx, anna, bruno)) is True
    assert await ask(town, lambda tx: is_blocked(tx, bruno, anna)) is False
    assert await ask(town, lambda tx: is_blocked(tx, anna, NEVER)) is False
    # Neither adds nor rings: the blocked one by the block, the other because they asked for quiet.
    assert await ask(town, lambda tx: may_add_to_groups(tx, bruno, [anna])) == set()
    assert await ask(town, lambda tx: may_add_to_groups(tx, anna, [bruno])) == {bruno}
    assert not await ask(town, lambda tx: may_call(tx, bruno, anna))
    assert not await ask(town, lambda tx: may_call(tx, anna, bruno))


@pytest.mark.parametrize("rule", ["add_to_groups", "call"])
async def test_privacy_decides_for_each_person_apart(town: Town, rule: str) -> None:
    adder, friend, closed, open_ = await town.settle_many(4)
    await town.befriend(friend, adder)
    for user_id, audience in ((friend, Audience.CONTACTS), (closed, Audience.NOBODY)):
        await update_privacy(town.db, user_id=user_id, changes={rule: audience})
    others = [friend, closed, open_]
    if rule == "add_to_groups":
        allowed = await ask(town, lambda tx: may_add_to_groups(tx, adder, [*others, NEVER]))
    else:
        allowed = {
            it for it in others if await ask(town, lambda tx, it=it: may_call(tx, adder, it))
        }
    assert allowed == {friend, open_}
    # The friend is not in the stranger's book: what `contacts` asks is the owner's own.
    assert not await ask(town, lambda tx: may_call(tx, closed, friend)) or rule != "call"


async def test_the_choices_of_many_are_read_at_once(town: Town) -> None:
    anna, bruno = await town.settle_many(2)
    await update_privacy(town.db, user_id=bruno, changes={"phone": Audience.NOBODY})
    choices = await ask(town, lambda tx: load_privacy(tx, [bruno, anna, bruno, NEVER]))
    assert choices == {anna: Privacy(), bruno: Privacy(phone=Audience.NOBODY)}
    crowd = [UserId(10_000_000 + number) for number in range(25_000)]
    assert await ask(town, lambda tx: find_existing(tx, [*crowd, anna, bruno])) == {anna, bruno}
