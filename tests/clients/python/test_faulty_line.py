"""The reference client behind a line that is cut, goes silent and loses answers."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from messenger_client import Reset, Tokens, Update

from tests.clients.python.conftest import Device, Devices, open_chat
from tests.faults.tcp_proxy import Link, TcpProxy
from tests.support import forks
from tests.support.people import Deployment
from tests.support.ports import free_port
from tests.support.servers import Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio
CUTS = 8


class ForgetfulProxy(TcpProxy):
    """The first answer on each of the next `losses` connections is lost, and the line with it."""

    losses = 0

    def make_link(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> Link:
        link = super().make_link(client, server)
        link.loses_next_answer = self.losses > 0
        self.losses = max(0, self.losses - 1)
        return link


@pytest.fixture
async def proxy(devices: Devices) -> AsyncIterator[ForgetfulProxy]:
    async with ForgetfulProxy.to("127.0.0.1", devices.deployment.next_node().port) as made:
        yield made


def through(devices: Devices, proxy: TcpProxy, device: Device, **options: Any) -> Device:
    """The device again, its line through the proxy."""
    client = devices.client(device.store, base_url=f"http://127.0.0.1:{proxy.port}", **options)
    made = Device(client, device.store, device.user)
    devices.made.append(made)
    return made


async def test_a_line_that_is_cut_again_and_again_loses_and_doubles_nothing(
    devices: Devices, proxy: ForgetfulProxy
) -> None:
    anna, bruno = await devices.sign_up(), await devices.sign_up()
    chat = await open_chat(anna, bruno)
    scope = f"chat:{chat}"
    reader = through(devices, proxy, bruno)
    await reader.start()
    begin = reader.client.position.cursors[scope]
    for cut in range(CUTS):
        sending = asyncio.gather(*(anna.client.send_message(chat, f"{cut}-{n}") for n in range(10)))
        if cut % 2:
            await eventually(lambda: has_link(proxy))
        proxy.cut()
        await sending
    end = begin + 10 * CUTS
    await reader.expect_seq(scope, end)
    assert reader.seqs(scope) == list(range(begin + 1, end + 1))


async def test_a_send_whose_answers_are_lost_is_there_once(
    devices: Devices, proxy: ForgetfulProxy
) -> None:
    anna, bruno = await devices.sign_up(), await devices.sign_up()
    chat = await open_chat(anna, bruno)
    await bruno.start()
    sender = through(devices, proxy, anna)
    for n in range(4):
        proxy.cut()
        proxy.losses = n
        message = await sender.client.send_message(chat, f"{n}")
        assert message["text"] == f"{n}"
    await bruno.expect_seq(f"chat:{chat}", 4)
    assert bruno.texts(chat) == ["0", "1", "2", "3"]
    assert await anna.store.list_outgoing() == []


async def test_a_renewal_whose_answers_are_lost_does_not_end_the_session(
    devices: Devices, proxy: ForgetfulProxy
) -> None:
    anna = await devices.sign_up()
    await expire(anna)
    device = through(devices, proxy, anna)
    proxy.losses = 2
    assert (await device.client.call("GET", "/users/me"))["id"] == anna.id


async def test_a_renewal_goes_on_when_its_caller_gives_up(
    devices: Devices, proxy: ForgetfulProxy
) -> None:
    anna = await devices.sign_up()
    old = await expire(anna)
    device = through(devices, proxy, anna)
    caller = asyncio.create_task(device.client.call("GET", "/users/me"))
    await eventually(lambda: has_link(proxy))
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)

    async def is_renewed() -> bool:
        tokens = await anna.store.load_tokens()
        return tokens is not None and tokens.refresh_token != old.refresh_token

    await eventually(is_renewed)
    assert (await device.client.call("GET", "/users/me"))["id"] == anna.id


async def test_the_next_address_is_taken_when_one_is_dead(devices: Devices) -> None:
    anna = await devices.sign_up()
    dead = f"http://127.0.0.1:{free_port()}"
    alive = devices.deployment.next_node().base_url
    client = devices.client(anna.store, base_url=dead, base_urls=(alive,))
    again = Device(client, anna.store, anna.user)
    devices.made.append(again)
    await again.start()
    assert client.is_connected


async def test_whoever_waits_for_an_address_that_never_answers_can_be_stopped(
    devices: Devices, proxy: ForgetfulProxy
) -> None:
    anna = await devices.sign_up()
    device = through(devices, proxy, anna)
    proxy.is_mute = True
    running = asyncio.create_task(device.client.run())
    with pytest.raises(TimeoutError):
        await device.client.wait_until_synced(0.3)
    await device.client.stop()
    async with asyncio.timeout(30):
        await running


async def test_a_broken_line_counts_as_whole_only_when_it_is_again(
    devices: Devices, proxy: ForgetfulProxy
) -> None:
    anna = await devices.sign_up()
    device = through(devices, proxy, anna)
    await device.start()
    proxy.is_refusing = True
    proxy.cut()
    await eventually(lambda: is_offline(device))
    with pytest.raises(TimeoutError):
        await device.client.wait_until_synced(0.2)
    proxy.heal()
    await device.client.wait_until_synced(60)


async def test_what_an_earlier_run_left_behind_goes_before_a_new_send(devices: Devices) -> None:
    anna, bruno = await devices.sign_up(), await devices.sign_up()
    await bruno.start()
    chat = await open_chat(anna, bruno)
    async with TcpProxy.to("127.0.0.1", free_port()) as nowhere:
        cut_off = through(devices, nowhere, anna)
        sends = [asyncio.create_task(cut_off.client.send_message(chat, f"{n}")) for n in range(3)]
        await eventually(lambda: holds_outgoing(anna, 3))
        await cut_off.client.close()
        await asyncio.gather(*sends, return_exceptions=True)
    again = devices.client(anna.store)
    await again.send_message(chat, "3")
    await bruno.expect_seq(f"chat:{chat}", 4)
    assert bruno.texts(chat) == ["0", "1", "2", "3"]
    await again.close()


@pytest.mark.slow
async def test_a_silent_line_is_left_and_a_new_epoch_is_read_anew(directory: Path) -> None:
    settings = {"WS_HEARTBEAT_SECONDS": "1"}
    with Server(directory, settings) as server:
        devices = Devices(Deployment("sqlite", [server]))
        anna, bruno = await devices.sign_up(), await devices.sign_up()
        chat = await open_chat(anna, bruno)
        scope = f"chat:{chat}"
        try:
            async with TcpProxy.to("127.0.0.1", server.port) as proxy:
                reader = through(devices, proxy, bruno, request_timeout=3, pong_timeout=2)
                await reader.start()
                proxy.silence()
                silent_at = time.monotonic()
                await anna.client.send_message(chat, "into the dark")
                await reader.expect_seq(scope, 1)
                assert time.monotonic() - silent_at < 30
                epoch = reader.client.position.epoch
                renew_epoch(server)
                await eventually(lambda: has_left(reader, epoch), timeout_seconds=60)
                await reader.client.wait_until_synced(60)
                await anna.client.send_message(chat, "after the restore")
                await reader.expect_seq(scope, 2)
        finally:
            for device in devices.made:
                await device.crash()
    kinds = [type(change) for change in reader.applied(scope)]
    assert kinds == [Reset, Update, Reset, Update]


def renew_epoch(server: Server) -> None:
    """As an operator does who has restored a backup."""
    command = [sys.executable, "-m", "app.admin", "new-epoch"]
    done = forks.run(command, directory=server.directory, environment=server.environment)
    assert done.returncode == 0, done.stderr


async def expire(device: Device) -> Tokens:
    """Its access token is over; answers the tokens that it had."""
    tokens = await device.store.load_tokens()
    assert tokens is not None
    await device.store.save_tokens(Tokens("expired", tokens.refresh_token, 0.0))
    return tokens


async def has_link(proxy: TcpProxy) -> bool:
    return bool(proxy.links)


async def is_offline(device: Device) -> bool:
    return not device.client.is_connected


async def has_left(device: Device, epoch: str | None) -> bool:
    return device.client.position.epoch != epoch


async def holds_outgoing(device: Device, count: int) -> bool:
    return len(await device.store.list_outgoing()) == count
