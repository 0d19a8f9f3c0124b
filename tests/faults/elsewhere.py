"""Schedules against a deployment of yours: the faults on the way to it, judged through its API.

Lines are cut, go silent, lose answers or read slowly, and clients are killed; what cannot be seen
from outside (the rows, the logs) is not judged, and nobody is put out of a chat.
"""

import argparse
import asyncio
import shlex
import shutil
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from messenger_client import Client

from tests.faults import checkers
from tests.faults.checkers import Anomaly, LogRow, MessageRow, Span
from tests.faults.cluster import Cluster
from tests.faults.journal import Call, Journal, read_journal
from tests.faults.nemesis import Fault, Nemesis, plan
from tests.faults.schedules import PATIENCE, WHOLE_WITHIN_SECONDS
from tests.faults.tcp_proxy import TcpProxy
from tests.faults.workload import Workload
from tests.faults.world import Device, World

_FAULTS = frozenset(
    {Fault.CLIENTS_CUT, Fault.CLIENTS_HALF_OPEN, Fault.CLIENTS_SLOW, Fault.ANSWERS_LOST}
)
_PEOPLE = 6
# A schedule has to find its faults among those that are planned for servers of our own.
_PLANS = 4
_SENDS_PER_SECOND = 20.0
_PAGE = 1000
_STEP_SECONDS = 0.1


async def run_elsewhere(options: argparse.Namespace, output: Path) -> int:
    """The exit status: 1 if anything was found."""
    seeds = range(options.first_seed, options.first_seed + options.schedules)
    failed: list[int] = []
    async with _reach(options.url) as front:
        url = f"http://127.0.0.1:{front.port}"
        with TemporaryDirectory(prefix="messenger-devices-") as devices:
            world = World(
                lambda store: Client(url, store, options=PATIENCE),
                lambda phone: _ask_for_code(options.code_command, phone),
                Path(devices),
                people=_PEOPLE,
                crowd=0,
            )
            await world.set_up()
            try:
                for seed in [options.seed] if options.seed is not None else seeds:
                    found = await _run_one(world, front, seed, options.seconds, output)
                    failed += [seed] if found else []
            finally:
                await world.close()
    print(f"failed seeds: {failed}" if failed else "nothing was found")
    return 1 if failed else 0


def _reach(url: str) -> TcpProxy:
    """A front of our own on the way; it speaks TLS to the server where the address does."""
    parts = urlsplit(url)
    assert parts.hostname is not None, f"{url} names no host"
    is_tls = parts.scheme == "https"
    port = parts.port or (443 if is_tls else 80)
    return (_TlsProxy if is_tls else TcpProxy).to(parts.hostname, port)


class _TlsProxy(TcpProxy):
    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        [(host, port)] = self._choose()
        context = ssl.create_default_context()
        return await asyncio.open_connection(host, port, ssl=context, server_hostname=host)


async def _ask_for_code(command: str, phone: str) -> str:
    """What the command prints last, of which `{phone}` is the number."""
    arguments = [part.replace("{phone}", phone) for part in shlex.split(command)]
    process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    return said.decode().split()[-1]


async def _run_one(
    world: World, front: TcpProxy, seed: int, seconds: float, output: Path
) -> list[Anomaly]:
    path = output / f"elsewhere-{seed}" / "journal.jsonl"
    shutil.rmtree(path.parent, ignore_errors=True)
    waited = await _wait_until_whole(world)
    base = {person.id: _position(person.devices[0]) for person in world.people}
    for device in world.devices:
        device.begin_evidence()
    cluster = Cluster([])
    cluster.front = front
    nemesis = Nemesis(cluster, seed)
    async with Journal(path) as journal:
        workload = Workload(world, journal, seed, rate=_SENDS_PER_SECOND, passes_door=False)
        await asyncio.gather(workload.run(seconds), _inflict(nemesis, seed, seconds))
        front.heal()
        is_answered = await workload.finish(WHOLE_WITHIN_SECONDS)
        waited = await _wait_until_whole(world)
    found = [] if is_answered else [Anomaly("not-whole", "calls were never answered")]
    found += checkers.check_healing(waited, bar=WHOLE_WITHIN_SECONDS)
    found += await _judge(world, base, read_journal(path))
    done = ", ".join(f"{name} {count}" for name, count in sorted(nemesis.done.items()))
    print(
        f"seed {seed}: {done}; {workload.sends} sends: {len(found) or 'no'} anomalies", flush=True
    )
    for anomaly in found[:5]:
        print(f"  {anomaly}")
    return found


async def _inflict(nemesis: Nemesis, seed: int, seconds: float) -> None:
    """The faults of the plan, and of the next ones, that can be done from outside."""
    planned = [it for number in range(_PLANS) for it in plan(seed + number * 1000, seconds)]
    clock = asyncio.get_running_loop().time
    started = clock()
    async with asyncio.TaskGroup() as group:
        for it in sorted(planned, key=lambda one: one.at):
            if it.fault in _FAULTS:
                await asyncio.sleep(max(0.0, started + it.at - clock()))
                group.create_task(nemesis.inflict(it))


async def _wait_until_whole(world: World) -> dict[str, float | None]:
    """Device -> the seconds until it stood where its account stands; None: not in time."""
    clock = asyncio.get_running_loop().time
    began = clock()
    whole: dict[str, float | None] = {device.name: None for device in world.devices}
    while None in whole.values() and clock() - began < WHOLE_WITHIN_SECONDS:
        for person in world.people:
            _, heads = await _read_log(person.devices[0], _position(person.devices[0]))
            for device in person.devices:
                if device.cursors() == heads and whole[device.name] is None:
                    whole[device.name] = clock() - began
        await asyncio.sleep(_STEP_SECONDS)
    return whole


def _position(device: Device) -> tuple[str, dict[str, int]]:
    position = device.client.position
    return position.epoch or "", dict(position.cursors)


async def _read_log(
    device: Device, position: tuple[str, Mapping[str, int]]
) -> tuple[list[Mapping[str, Any]], dict[str, int]]:
    """Everything behind a position, and where it leads."""
    epoch, state = position[0], dict(position[1])
    updates: list[Mapping[str, Any]] = []
    while True:
        body = {"epoch": epoch, "state": state, "limit": _PAGE}
        answer = await device.client.call("POST", "/updates/difference", body)
        updates += answer["updates"]
        state = answer["state"]
        if not answer["has_more"]:
            return updates, state


async def _judge(
    world: World, base: Mapping[int, tuple[str, dict[str, int]]], calls: Sequence[Call]
) -> list[Anomaly]:
    senders = {
        call.about["client_message_id"]: call.user_id for call in calls if call.action == "send"
    }
    rows: dict[tuple[str, int], LogRow] = {}
    start: dict[str, int] = {}
    heads: dict[str, int] = {}
    for person in world.people:
        updates, state = await _read_log(person.devices[0], base[person.id])
        own = f"user:{person.id}"
        start |= {own if wire == "user" else wire: seq for wire, seq in base[person.id][1].items()}
        heads |= {own if wire == "user" else wire: seq for wire, seq in state.items()}
        for it in updates:
            scope = own if it["scope"] == "user" else it["scope"]
            rows[scope, it["seq"]] = LogRow(
                scope, it["seq"], it["type"], it["data"].get("id"), it["data"]
            )
    log = list(rows.values())
    messages = [_read_message(row, senders) for row in log if row.type == "new_message"]
    spans = {(person.id, chat.id): [Span(0)] for chat in world.chats for person in chat.members}
    devices = [device.take_evidence() for device in world.devices]
    return [
        *checkers.check_log(start, log, heads),
        *checkers.check_ids(log, messages),
        *checkers.check_sends(calls, messages),
        *checkers.check_changes(calls, log),
        *checkers.check_order(devices, log),
        *checkers.check_polls(devices, heads, spans),
        *checkers.check_writers(messages, spans),
        *checkers.check_texts(devices, calls),
        *checkers.check_answers(calls),
        *checkers.check_looks(calls),
    ]


def _read_message(row: LogRow, senders: Mapping[str, int]) -> MessageRow:
    """A tombstone does not tell its sender; the journal does."""
    data = row.data
    key = data.get("client_message_id")
    sender = data.get("sender") or {}
    return MessageRow(
        id=data["id"],
        chat_id=data["chat_id"],
        seq=row.seq,
        sender_id=senders.get(key, sender.get("id", 0)),
        type=data.get("type", "text") if key else "service",
        client_message_id=key,
        is_deleted=bool(data.get("is_deleted")),
    )
