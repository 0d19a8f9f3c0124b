"""The reference client against the real server, on both databases."""

import asyncio
import hashlib
import os
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from messenger_client import (
    Change,
    Client,
    Forgotten,
    MemoryStore,
    Outgoing,
    PasswordRequired,
    Problem,
    Reset,
    SessionEnded,
    SqliteStore,
    Update,
)

from tests.clients.python.conftest import Device, Devices, open_chat
from tests.support.people import Backend
from tests.support.servers import ROOT
from tests.support.shown_files import make_photo
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


async def test_what_one_says_the_other_applies_in_order(devices: Devices) -> None:
    anna, bruno = await devices.sign_up(), await devices.sign_up()
    await anna.start()
    await bruno.start()
    chat = await open_chat(anna, bruno)
    sent = [await anna.client.send_message(chat, f"{n}") for n in range(10)]
    await bruno.client.request("send_message", {"chat_id": chat, "text": "by socket"})
    for device in (anna, bruno):
        await device.expect_seq(f"chat:{chat}", 11)
    assert bruno.texts(chat)[-11:] == [*(message["text"] for message in sent), "by socket"]
    assert anna.client.position.cursors[f"chat:{chat}"] == 11


async def test_a_file_goes_from_one_to_the_other(devices: Devices, tmp_path: Path) -> None:
    anna, bruno = await devices.sign_up(), await devices.sign_up()
    await bruno.start()
    chat = await open_chat(anna, bruno)
    path, content = tmp_path / "photo.png", make_photo()
    path.write_bytes(content)
    files = [await anna.client.upload(path), await anna.client.upload(content, name="same.png")]
    ids = [file["id"] for file in files]
    message = await anna.client.send_message(chat, "Look!", attachments=ids)
    assert message["attachments"] == files
    await bruno.expect_seq(f"chat:{chat}", 1)
    [update] = bruno.applied(f"chat:{chat}")
    assert isinstance(update, Update)
    [photo, _] = update.data["attachments"]
    copy = tmp_path / "copy"
    await bruno.client.download(photo["url"], copy)
    assert hashlib.sha256(copy.read_bytes()).hexdigest() == photo["sha256"]
    without_words = await anna.client.send_message(chat, attachments=ids[:1])
    assert without_words["text"] is None
    with pytest.raises(Problem) as refusal:
        await bruno.client.send_message(chat, attachments=ids)
    assert refusal.value.code == "file_not_found"


async def test_a_broken_line_costs_nothing(devices: Devices) -> None:
    anna, bruno = await devices.sign_up(), await devices.sign_up()
    chat = await open_chat(anna, bruno)
    await bruno.start()
    known = bruno.client.position.cursors[f"chat:{chat}"]
    await bruno.crash()
    for n in range(30):
        await anna.client.send_message(chat, f"{n}")
    again = await devices.come_back(bruno)
    await again.expect_seq(f"chat:{chat}", known + 30)
    assert again.seqs(f"chat:{chat}") == list(range(known + 1, known + 31))


async def test_removal_and_return_leave_no_trace_of_what_was_said_between(
    devices: Devices,
) -> None:
    anna, bruno = await devices.sign_up(), await devices.sign_up()
    await bruno.start()
    body = {"type": "group", "title": "Group", "member_ids": [bruno.id]}
    chat = (await anna.client.call("POST", "/chats/", body))["id"]
    scope = f"chat:{chat}"
    await eventually(lambda: holds(scope in bruno.client.position.cursors))
    await anna.client.send_message(chat, "for all")
    await eventually(lambda: holds("for all" in bruno.texts(chat)))
    await anna.client.call("DELETE", f"/chats/{chat}/members/{bruno.id}")
    await anna.client.send_message(chat, "without bruno")
    await eventually(lambda: holds(scope not in bruno.client.position.cursors))
    await anna.client.call("POST", f"/chats/{chat}/members", {"user_ids": [bruno.id]})
    await eventually(lambda: holds(scope in bruno.client.position.cursors))
    await anna.client.send_message(chat, "welcome back")
    await eventually(lambda: holds("welcome back" in bruno.texts(chat)))
    assert "without bruno" not in str(bruno.applied(scope))


async def test_an_ended_session_ends_the_client(devices: Devices) -> None:
    phone = devices.deployment.next_phone()
    first, second = await devices.sign_up(phone), await devices.sign_up(phone)
    await second.start()
    await first.client.call("DELETE", "/auth/sessions")
    assert second.running is not None
    with pytest.raises(SessionEnded):
        async with asyncio.timeout(30):
            await second.running


async def test_a_refusal_is_told_and_leaves_the_outbox(devices: Devices) -> None:
    anna = await devices.sign_up()
    with pytest.raises(Problem) as refusal:
        await anna.client.send_message(2**53 - 1, "hello?")
    assert (refusal.value.status, refusal.value.code) == (404, "chat_not_found")
    assert await anna.store.list_outgoing() == []


async def test_an_expired_token_is_renewed_by_itself_once_for_all_callers(
    devices: Devices,
) -> None:
    anna = await devices.sign_up()
    tokens = await anna.store.load_tokens()
    assert tokens is not None
    expired = type(tokens)("expired", tokens.refresh_token, 0.0)
    await anna.store.save_tokens(expired)
    again = devices.client(anna.store)
    answers = await asyncio.gather(*(again.call("GET", "/users/me") for _ in range(5)))
    assert {answer["id"] for answer in answers} == {anna.id}
    await again.close()


async def test_a_send_left_behind_is_delivered_by_the_next_run_once(devices: Devices) -> None:
    anna, bruno = await devices.sign_up(), await devices.sign_up()
    await bruno.start()
    chat = await open_chat(anna, bruno)
    ids = [str(uuid.uuid4()) for _ in range(3)]
    await anna.client.call(
        "POST", "/messages/", {"chat_id": chat, "text": "0", "client_message_id": ids[0]}
    )
    for number, client_message_id in enumerate(ids):
        body = {"chat_id": chat, "text": f"{number}", "client_message_id": client_message_id}
        await anna.store.put_outgoing(Outgoing(client_message_id, body))
    await anna.crash()
    again = await devices.come_back(anna)
    await bruno.expect_seq(f"chat:{chat}", 3)
    await eventually(lambda: is_empty(again))
    assert bruno.texts(chat)[-2:] == ["1", "2"]


async def test_a_store_on_disk_holds_what_the_memory_of_another_does(
    devices: Devices, tmp_path: Path
) -> None:
    seen: list[str] = []

    def note(connection, change) -> None:
        connection.execute("CREATE TABLE IF NOT EXISTS notes (scope, kind)")
        scope = getattr(change, "scope", "")
        connection.execute("INSERT INTO notes VALUES (?, ?)", (scope, type(change).__name__))
        seen.append(scope)

    path = tmp_path / "device.db"
    phone = devices.deployment.next_phone()
    memory = await devices.sign_up(phone)
    disk = await devices.sign_up(phone, SqliteStore(path, note))
    bruno = await devices.sign_up()
    await memory.start()
    await disk.start()
    chat = await open_chat(bruno, memory)
    for n in range(20):
        await bruno.client.send_message(chat, f"{n}")
    for device in (memory, disk):
        await device.expect_seq(f"chat:{chat}", 20)
    assert disk.client.position == memory.client.position
    await disk.crash()
    opened = SqliteStore(path)
    assert await opened.load() == memory.client.position
    await opened.close()
    assert seen.count(f"chat:{chat}") == len(memory.applied(f"chat:{chat}"))


@pytest.mark.slow
async def test_a_device_that_is_killed_again_and_again_loses_and_doubles_nothing(
    devices: Devices, tmp_path: Path
) -> None:
    path = tmp_path / "device.db"
    anna = await devices.sign_up(store=SqliteStore(path))
    chat = (await anna.client.call("POST", "/chats/", {"type": "private", "user_id": anna.id}))[
        "id"
    ]
    await anna.client.close()
    url = devices.deployment.next_node().base_url
    module = "tests.clients.python.living_device"
    command = [sys.executable, "-m", module, str(path), url, str(chat)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "clients/python/src")}
    for kill in range(1, 5):
        process = subprocess.Popen(command, cwd=ROOT, env=environment)  # noqa: ASYNC220 - to be killed
        try:
            await eventually(
                lambda least=15 * kill: holds(len(applied_seqs(path, chat)) >= least),
                timeout_seconds=30,
            )
        finally:
            process.kill()
            process.wait()
    seqs = applied_seqs(path, chat)
    assert seqs == list(range(1, len(seqs) + 1))
    async with devices.client(SqliteStore(path)) as again:
        texts = await read_all(again, chat)
    assert [int(text) for text in texts] == list(range(1, len(texts) + 1))


async def read_all(client: Client, chat: int) -> list[str]:
    """The texts of a chat, oldest first."""
    texts: list[str] = []
    params: dict[str, int] = {"limit": 100}
    while True:
        page = await client.call("GET", f"/messages/chat/{chat}", params=params)
        texts = [message["text"] for message in reversed(page["items"])] + texts
        if not page["has_more_before"]:
            return texts
        params["before"] = page["items"][-1]["id"]


def applied_seqs(path: Path, chat: int) -> list[int]:
    """The updates of the chat that the device has applied, in order."""
    with closing(sqlite3.connect(path, timeout=30)) as database:
        try:
            rows = database.execute(
                "SELECT seq FROM notes WHERE scope = ? AND kind = 'Update' ORDER BY rowid",
                (f"chat:{chat}",),
            ).fetchall()
        except sqlite3.OperationalError:
            return []
        return [seq for (seq,) in rows]


async def test_a_cursor_from_before_joining_is_reset(devices: Devices) -> None:
    anna, bruno = await devices.sign_up(), await devices.sign_up()
    body = {"type": "group", "title": "Group", "member_ids": [bruno.id]}
    chat = (await anna.client.call("POST", "/chats/", body))["id"]
    await bruno.start()
    await bruno.crash()
    await anna.client.call("DELETE", f"/chats/{chat}/members/{bruno.id}")
    await anna.client.send_message(chat, "without bruno")
    await anna.client.call("POST", f"/chats/{chat}/members", {"user_ids": [bruno.id]})
    again = await devices.come_back(bruno)
    scope = f"chat:{chat}"
    assert any(isinstance(it, Reset) for it in again.applied(scope))
    assert "without bruno" not in str(again.applied(scope))
    await anna.client.send_message(chat, "now")
    await eventually(lambda: holds("now" in again.texts(chat)))


async def test_an_open_socket_lives_on_with_new_tokens(devices: Devices) -> None:
    anna = await devices.sign_up()
    before = await anna.store.load_tokens()
    anna.client._api.access_lifetime = 0.5
    await anna.start()
    line = anna.client._line

    async def is_renewed() -> bool:
        return await anna.store.load_tokens() != before

    await eventually(is_renewed)
    # The server has taken the new one: it answers in order.
    await anna.client.request("ping", {})
    assert anna.client._line is line


class SlowStore(MemoryStore):
    """Takes its time once it is asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.is_busy = asyncio.Event()
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def apply(self, changes: Sequence[Change]) -> None:
        self.is_busy.set()
        await self.may_go_on.wait()
        await super().apply(changes)


async def test_what_is_stored_is_told_also_when_the_client_is_stopped_meanwhile(
    devices: Devices,
) -> None:
    store, told = SlowStore(), []
    phone = devices.deployment.next_phone()
    anna = await devices.sign_up(phone, store)
    client = Client(devices.deployment.nodes[0].base_url, store, on_change=told.append)
    device = Device(client, store, anna.user)
    devices.made.append(device)
    await device.start()
    store.may_go_on.clear()
    store.is_busy.clear()
    await open_chat(anna, anna)
    async with asyncio.timeout(30):
        await store.is_busy.wait()
    await client.stop()
    for _ in range(20):
        # Turns of the loop, in which the connection is taken down.
        await asyncio.sleep(0)
    store.may_go_on.set()
    assert device.running is not None
    async with asyncio.timeout(30):
        await device.running
    assert client.position == await store.load()
    assert [it for it in told if isinstance(it, Update)] == [
        it for applied in store.applied.values() for it in applied if isinstance(it, Update)
    ]
    assert any(isinstance(it, Update) and it.type == "chat_created" for it in told)


async def test_memory_and_changes_agree() -> None:
    """The rule by which stores move is the one by which the core moves."""
    store = MemoryStore()
    chat = {"chat": {"id": 5, "seq": 3}}
    await store.apply([Update("chat_created", "user", 1, chat), Reset("chat:6", 2)])
    await store.apply([Update("new_message", "chat:5", 4, {}), Forgotten("chat:6")])
    position = await store.load()
    assert position.cursors == {"user": 1, "chat:5": 4}


async def holds(value: bool) -> bool:
    return value


async def is_empty(device: Device) -> bool:
    return await device.store.list_outgoing() == []


async def test_a_second_factor_is_asked_for(backend: Backend) -> None:
    password = "correct horse battery"
    anna = await backend.sign_up()
    await anna.put("/auth/two-step", {"password": password}, expect=200)
    async with Client(backend.deployment.nodes[0].base_url, MemoryStore()) as client:
        sent = await client.request_code(anna.phone)
        code = backend.deployment.codes(anna.phone)[-1]
        with pytest.raises(PasswordRequired) as needed:
            await client.sign_in(verification_id=sent["verification_id"], code=code)
        assert needed.value.methods == ["password"]
        token = needed.value.password_token
        with pytest.raises(Problem):
            await client.sign_in_with_factor(token, password="wrong horse")
        user = await client.sign_in_with_factor(token, password=password)
        assert user["id"] == anna.id
        assert (await client.call("GET", "/users/me"))["id"] == anna.id
