"""An attack is seen as well when a flood has filled the places of single sources, on purpose or by chance."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import pytest

from app.features.audit.chain import append_queued
from app.features.audit.read import Filter, RecordedEvent, list_newest
from app.features.audit.record import record
from app.features.audit.sink import AuditSink
from app.features.audit.watch import Watch
from app.features.audit.write import event_writer
from app.infra.database.tx import Tx
from app.kernel.events import SecurityEvent
from app.kernel.ids import UserId
from tests.unit.features.conftest import World

pytestmark = pytest.mark.anyio

ATTACKER = "198.51.100.10"
WIDE = "198.51.0.0/16"
SOURCES, NETWORKS, ROWS = 10, 4, 50
Attack = Callable[[UserId], Iterator[SecurityEvent]]


def phone(number: int) -> bytes:
    return number.to_bytes(16, "big")


def guess_codes(_: UserId) -> Iterator[SecurityEvent]:
    for number in range(12):
        yield SecurityEvent("sign_in_refused", phone_index=phone(number), address=ATTACKER)


def walk(person: UserId) -> Iterator[SecurityEvent]:
    for number in range(40):
        subject = f"chat_id:{5_000 + number}"
        yield SecurityEvent("not_found", person, subject=subject, address=ATTACKER)


def probe(_: UserId) -> Iterator[SecurityEvent]:
    for _ in range(3):
        yield SecurityEvent("probe_seen", details={"kind": "secrets"}, address=ATTACKER)


def use_budget_up(person: UserId) -> Iterator[SecurityEvent]:
    """Tripping other limits in the same minute hides nothing."""
    for code in ("typing", "search", "typing"):
        yield SecurityEvent("rate_limited", person, details={"limit": code}, address=ATTACKER)
    details = {"route": "/users/contacts", "code": "lookups_exhausted"}
    yield SecurityEvent("rate_limited", person, details=details, address=ATTACKER)


def forge_tokens(_: UserId) -> Iterator[SecurityEvent]:
    for _ in range(320):
        yield SecurityEvent("token_refused", details={"code": "token_invalid"}, address=ATTACKER)


# Of those that go through the sink; the others are written with the change that they tell of.
ATTACKS: Mapping[str, Attack] = {
    "alert_code_guessing": guess_codes,
    "alert_id_walking": walk,
    "alert_probing": probe,
    "alert_mass_import": use_budget_up,
    "alert_token_guessing": forge_tokens,
}
NAMES = ("sign_in_refused", "not_found", "probe_seen", "rate_limited", "token_refused")
CHANGES: Mapping[str, Attack] = {
    "alert_phone_under_attack": lambda _: (
        SecurityEvent("sign_in_code_asked", phone_index=phone(0), address=f"198.51.{number}.1")
        for number in range(8)
    ),
    "alert_mass_import": lambda person: iter(
        [SecurityEvent("contacts_imported", person, details={"new": 1_000}, address=ATTACKER)]
    ),
    "alert_token_replay": lambda person: iter(
        [SecurityEvent("refresh_token_replayed", person, address=ATTACKER)]
    ),
}


@pytest.fixture(autouse=True)
def writer(world: World) -> None:
    world.db.write_events = event_writer(world.keyring)


async def ask_codes(world: World, numbers: Iterable[int]) -> None:
    """As whoever guesses a code must, or its owner."""

    async def work(tx: Tx) -> None:
        for number in numbers:
            record(tx, SecurityEvent("sign_in_code_asked", phone_index=phone(number)))

    await world.db.write(work)


def small_sink(world: World) -> AuditSink:
    return AuditSink(world.clock, max_sources=SOURCES, max_networks=NETWORKS)


def fill(sink: AuditSink, name: str, *, networks: int = 0) -> None:
    """All places of single sources under a name; `networks`: those of wide networks as well."""
    for number in range(SOURCES + networks):
        address = f"20.{number}.0.1"
        sink.record(SecurityEvent(name, address=address))
        sink.record(SecurityEvent(name, UserId(1_000 + number), address=address))


async def find_alerts(world: World) -> list[RecordedEvent]:
    while await world.db.write(lambda tx: append_queued(tx, world.keyring)):
        pass
    watch = Watch()
    await world.db.write(lambda tx: watch.look(tx, world.keyring))
    wanted = Filter(name="alert_")
    return await world.db.read(lambda tx: list_newest(tx, world.keyring, wanted, limit=100))


@pytest.mark.parametrize("alert", ATTACKS)
async def test_a_flood_of_other_events_costs_an_attack_no_detail(world: World, alert: str) -> None:
    events = list(ATTACKS[alert](await world.new_user()))
    sink = small_sink(world)
    for name in NAMES:
        if name != events[0].name:
            fill(sink, name, networks=2 * NETWORKS)
    await ask_codes(world, range(12))
    for event in events:
        sink.record(event)
    await sink.close(world.db, world.keyring)
    (found,) = [event for event in await find_alerts(world) if event.name == alert]
    assert found.user_id == events[0].user_id
    assert found.address == ATTACKER


@pytest.mark.parametrize("alert", ATTACKS)
async def test_a_flood_of_the_same_leaves_the_wide_network(world: World, alert: str) -> None:
    person = await world.new_user()
    sink = small_sink(world)
    for name in NAMES:
        fill(sink, name)
    for event in ATTACKS[alert](person):
        sink.record(event)
    await sink.close(world.db, world.keyring)
    alerts = await find_alerts(world)
    (found,) = [event for event in alerts if event.name == alert]
    assert (found.user_id, found.address) == (None, WIDE)
    flooded = [event for event in alerts if event.name == "alert_record_flooded"]
    assert [event.details["cause"] for event in flooded] == [next(ATTACKS[alert](person)).name]


@pytest.mark.parametrize("alert", CHANGES)
async def test_what_is_written_with_its_change_needs_no_place(world: World, alert: str) -> None:
    person = await world.new_user()
    sink = small_sink(world)
    for name in NAMES:
        fill(sink, name, networks=2 * NETWORKS)

    async def work(tx: Tx) -> None:
        for event in CHANGES[alert](person):
            record(tx, event)

    await world.db.write(work)
    await sink.close(world.db, world.keyring)
    assert alert in {event.name for event in await find_alerts(world)}


async def test_where_nobody_is_told_apart_any_more_an_operator_is_told(world: World) -> None:
    sink = small_sink(world)
    fill(sink, "not_found", networks=2 * NETWORKS)
    await sink.close(world.db, world.keyring)
    rows = await world.db.read(
        lambda tx: list_newest(tx, world.keyring, Filter(name="not_found"), limit=5_000)
    )
    nobody = [row for row in rows if row.user_id is None and row.address is None]
    assert [row.count for row in nobody] == [NETWORKS, NETWORKS]
    assert sum(row.count for row in rows) == 2 * (SOURCES + 2 * NETWORKS)
    (alert,) = await find_alerts(world)
    assert (alert.name, alert.details["cause"]) == ("alert_record_flooded", "not_found")


async def test_the_alert_of_a_flood_is_one_an_hour(world: World) -> None:
    for _ in range(3):
        sink = small_sink(world)
        fill(sink, "not_found", networks=1)
        await sink.close(world.db, world.keyring)
        alerts = await find_alerts(world)
    assert Counter(event.name for event in alerts) == {"alert_record_flooded": 1}


async def test_all_floods_together_write_so_many_rows_a_minute_and_lose_nothing(
    world: World,
) -> None:
    now = [1000.0]
    sink = AuditSink(
        world.clock,
        max_sources=SOURCES,
        max_networks=NETWORKS,
        max_rows=ROWS,
        monotonic=lambda: now[0],
    )
    names = [f"refused_{number}" for number in range(6)]
    for name in names:
        fill(sink, name, networks=2 * NETWORKS)
    counts: list[int] = []
    for _ in range(5):
        await sink.flush(world.db, world.keyring)
        await sink.flush(world.db, world.keyring)
        rows = await world.db.read(
            lambda tx: list_newest(tx, None, Filter(name="refused_"), limit=10_000)
        )
        counts.append(len(rows))
        now[0] += 60
    assert counts[:2] == [ROWS, 2 * ROWS]
    assert len(rows) == len(names) * 2 * (SOURCES + NETWORKS + 1)
    expected = 2 * (SOURCES + 2 * NETWORKS)
    totals: Counter[str] = Counter()
    for row in rows:
        totals[row.name] += row.count
    assert totals == dict.fromkeys(names, expected)


async def test_who_waits_longest_is_written_first(world: World) -> None:
    now = [1000.0]
    sink = AuditSink(world.clock, max_rows=2, monotonic=lambda: now[0])
    for number in range(4):
        sink.record(SecurityEvent("not_found", address=f"192.0.2.{number}"))
        world.clock.advance(seconds=1)
    for _ in range(2):
        # Whoever comes anew each minute overtakes nobody.
        sink.record(SecurityEvent("probe_seen", address=f"198.51.100.{now[0]:.0f}"))
        await sink.flush(world.db, world.keyring)
        now[0] += 60
    rows = await world.db.read(lambda tx: list_newest(tx, world.keyring, Filter(), limit=10))
    assert [row.address for row in rows] == [f"192.0.2.{number}" for number in range(4)]


async def test_tokens_that_have_merely_expired_take_nobodys_place(world: World) -> None:
    sink = small_sink(world)
    details = {"code": "token_invalid", "route": "/users/me"}
    for number in range(500):
        address = f"20.{number % 250}.{number // 250}.1"
        sink.record(SecurityEvent("token_expired", details=details, address=address))
    for event in forge_tokens(UserId(1)):
        sink.record(replace(event, details=details))
    await sink.close(world.db, world.keyring)
    rows = await world.db.read(lambda tx: list_newest(tx, world.keyring, Filter(), limit=10))
    assert [(row.name, row.count, row.address) for row in rows] == [
        ("token_expired", 500, None),
        ("token_refused", 320, ATTACKER),
    ]
    assert [event.name for event in await find_alerts(world)] == ["alert_token_guessing"]
