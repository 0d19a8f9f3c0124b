"""What is recorded of a phone number before sign-in is under a key of that number, and goes with it."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select

from app.features.audit.chain import append_queued
from app.features.audit.models import AuditPhoneRow
from app.features.audit.phones import forget_phone, move_phones, prune_phones
from app.features.audit.read import Filter, RecordedEvent, list_newest
from app.features.audit.record import record
from app.features.audit.sink import AuditSink
from app.features.audit.verify import verify_chain
from app.features.audit.write import event_writer
from app.infra.cipher.models import KeyRow
from app.infra.database.tx import Tx
from app.kernel.events import SecurityEvent
from tests.unit.features.conftest import World

pytestmark = pytest.mark.anyio
ADDRESS = "203.0.113.77"
REGISTERED, UNKNOWN = "+447400123456", "+447400123457"


@pytest.fixture(autouse=True)
def writer(world: World) -> None:
    world.db.write_events = event_writer(world.keyring)


async def ask(world: World, *phones: str) -> None:
    async def work(tx: Tx) -> None:
        for phone in phones:
            index = world.index.phone(phone)
            record(tx, SecurityEvent("sign_in_code_asked", phone_index=index, address=ADDRESS))

    await world.db.write(work)


async def refuse(world: World, name: str, *phones: str) -> None:
    sink = AuditSink(world.clock)
    for phone in phones:
        index = world.index.phone(phone)
        about = {"verification": "5"}
        sink.record(SecurityEvent(name, personal=about, phone_index=index, address=ADDRESS))
    assert await sink.close(world.db, world.keyring)


async def read(world: World, name: str = "sign_in") -> list[RecordedEvent]:
    world.keyring._cache.clear()
    return await world.db.read(
        lambda tx: list_newest(tx, world.keyring, Filter(name=name), limit=100)
    )


async def list_keys(world: World) -> list[str]:
    statement = select(KeyRow.id).where(KeyRow.id.startswith("phone:")).order_by(KeyRow.id)
    return list(await world.db.read(lambda tx: tx.scalars(statement)))


async def test_a_registered_number_has_what_any_other_has(world: World) -> None:
    await world.new_user(REGISTERED)
    await ask(world, REGISTERED, UNKNOWN, REGISTERED)
    await refuse(world, "sign_in_refused", REGISTERED, UNKNOWN)
    events = await read(world)
    ids = [event.phone_id for event in events]
    assert ids == [ids[0], ids[1], ids[0], ids[0], ids[1]]
    assert len(await list_keys(world)) == 2
    assert [event.address for event in events] == [ADDRESS] * 5
    assert events[1].subjects == [world.index.phone(UNKNOWN).hex()]


async def test_with_the_account_nothing_opens_and_the_chain_is_whole(world: World) -> None:
    await ask(world, REGISTERED, UNKNOWN)
    await refuse(world, "sign_in_refused", REGISTERED, UNKNOWN)
    await world.db.write(lambda tx: append_queued(tx, world.keyring))
    index = world.index.phone(REGISTERED)
    await world.db.write(lambda tx: forget_phone(tx, world.keyring, index))
    of_first, of_second, guess_first, guess_second = await read(world)
    assert (of_first.personal, guess_first.personal) == ({}, {})
    assert (of_second.address, guess_second.address) == (ADDRESS, ADDRESS)
    assert (await verify_chain(world.db, world.keyring)).faults == []
    left = select(func.count()).where(AuditPhoneRow.phone_index == index)
    assert await world.db.read(lambda tx: tx.scalar(left)) == 0


async def test_a_refusal_makes_no_key_and_names_no_number_without_one(world: World) -> None:
    """One address may be refused for ten billion numbers."""
    phones = [f"+4474001{number:05d}" for number in range(50)]
    await refuse(world, "sign_in_code_limited", *phones)
    assert await list_keys(world) == []
    for event in await read(world):
        assert (event.phone_id, event.personal) == (None, {"address": ADDRESS})


async def test_each_day_has_a_key_of_its_own_until_events_are_forgotten(world: World) -> None:
    await ask(world, UNKNOWN)
    world.clock.advance(days=1)
    await refuse(world, "sign_in_refused", UNKNOWN)
    first, second = await read(world)
    assert first.phone_id == second.phone_id, "an attack goes on over midnight"
    await ask(world, UNKNOWN)
    assert len(await list_keys(world)) == 2
    await prune_phones(world.db, world.keyring, retention=timedelta(days=1))
    assert len(await list_keys(world)) == 2
    world.clock.advance(days=1)
    await prune_phones(world.db, world.keyring, retention=timedelta(days=1))
    assert len(await list_keys(world)) == 1
    assert [event.personal != {} for event in await read(world)] == [False, False, True]


async def test_a_number_is_forgotten_also_after_its_index_has_changed(world: World) -> None:
    await ask(world, REGISTERED)
    older, newer = world.index.phone(REGISTERED), b"n" * 16
    await world.db.write(lambda tx: move_phones(tx, {older: newer}))
    await world.db.write(lambda tx: forget_phone(tx, world.keyring, newer))
    assert [event.personal for event in await read(world)] == [{}]
    assert await list_keys(world) == []
