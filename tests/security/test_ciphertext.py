"""Who can write to the database moves, copies and puts back ciphertext: it opens nowhere else, is
recorded, and harms no other row.
"""

import json

import pytest

from tests.support.people import Backend, Json, Person
from tests.support.rows import change_rows, read_rows, read_values
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


async def events_about(backend: Backend, table: str, column: str, row: int | str) -> int:
    """How many events tell that this value does not open."""
    found = await read_values(
        backend.deployment, "SELECT details FROM audit_events WHERE name = 'ciphertext_invalid'"
    )
    details = [json.loads(str(text)) for text in found]
    return details.count({"table": table, "column": column, "row": row})


async def expect_event(backend: Backend, table: str, column: str, row: int | str) -> None:
    async def is_recorded() -> bool:
        return await events_about(backend, table, column, row) > 0

    await eventually(is_recorded)


async def copy_value(backend: Backend, table: str, column: str, *, source: int, to: int) -> None:
    changed = await change_rows(
        backend.deployment,
        f"UPDATE {table} SET {column} = (SELECT {column} FROM {table} WHERE id = {source})"
        f" WHERE id = {to}",
    )
    assert changed == 1


class Row:
    """A row as it was, to be put back as a whole."""

    def __init__(self, backend: Backend, table: str, values: dict[str, object]) -> None:
        self._backend = backend
        self._table = table
        self._values = values

    @classmethod
    async def take(cls, backend: Backend, table: str, row_id: int) -> "Row":
        query = f"SELECT * FROM {table} WHERE id = {row_id}"
        [values] = await read_rows(backend.deployment, query)
        return cls(backend, table, values)

    async def put_back(self, *columns: str) -> None:
        """These columns, or all."""
        for name in columns or self._values:
            await change_rows(
                self._backend.deployment,
                f"UPDATE {self._table} SET {name} = {literal(self._backend, self._values[name])}"
                f" WHERE id = {self._values['id']}",
            )


def literal(backend: Backend, value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        hexed = value.hex()
        return f"X'{hexed}'" if backend.name == "sqlite" else f"'\\x{hexed}'::bytea"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    return "'" + str(value).replace("'", "''") + "'"


async def texts_of(person: Person, chat: Json) -> dict[int, str | None]:
    """What a reader sees of a chat, by message; None: it shows as deleted."""
    items = await person.history(chat)
    return {item["id"]: item.get("text") for item in items}


async def test_a_message_that_was_copied_over_another_shows_as_deleted(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    first, second, third = [await anna.say(chat, text) for text in ("one", "two", "three")]
    reply = await bruno.say(chat, "reply", reply_to_message_id=second["id"])
    await copy_value(backend, "messages", "body", source=first["id"], to=second["id"])

    assert await texts_of(bruno, chat) == {
        first["id"]: "one",
        second["id"]: None,
        third["id"]: "three",
        reply["id"]: "reply",
    }
    assert (await bruno.get(f"/messages/{second['id']}"))["is_deleted"] is True
    quoted = (await bruno.get(f"/messages/{reply['id']}"))["reply_to"]
    assert quoted == {"message_id": second["id"]}
    await anna.put(f"/messages/{second['id']}", {"text": "new"}, expect=404)
    await anna.post(
        "/messages/",
        {
            "chat_id": chat["id"],
            "forward_from": {"chat_id": chat["id"], "message_ids": [second["id"]]},
        },
        expect=404,
    )
    await expect_event(backend, "messages", "body", second["id"])
    # The chat goes on, and everything beside that row answers.
    await anna.say(chat, "four")
    assert (await bruno.chat(chat))["last_message"]["text"] == "four"


async def test_a_message_that_was_moved_to_another_chat_does_not_open(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    chat, other = await anna.private_chat(bruno), await anna.private_chat(clara)
    secret, target = await anna.say(chat, "secret"), await anna.say(other, "target")
    await copy_value(backend, "messages", "body", source=secret["id"], to=target["id"])
    assert await texts_of(clara, other) == {target["id"]: None}
    # A row that changed its chat is under another key.
    await change_rows(
        backend.deployment,
        f"UPDATE messages SET chat_id = {other['id']}, seq = 1000 WHERE id = {secret['id']}",
    )
    assert (await texts_of(clara, other))[secret["id"]] is None
    listed = await clara.walk("/chats/")
    assert [item["id"] for item in listed] == [other["id"]]


@pytest.mark.parametrize("columns", [("body",), ("body", "edited_at"), ()], ids=str)
async def test_an_edited_message_cannot_be_put_back(
    backend: Backend, columns: tuple[str, ...]
) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    message, other = await anna.say(chat, "before"), await anna.say(chat, "other")
    row = await Row.take(backend, "messages", message["id"])
    await anna.put(f"/messages/{message['id']}", {"text": "after"})
    assert await texts_of(bruno, chat) == {message["id"]: "after", other["id"]: "other"}
    await row.put_back(*columns)
    assert await texts_of(bruno, chat) == {message["id"]: None, other["id"]: "other"}
    await expect_event(backend, "messages", "body", message["id"])


async def test_a_deleted_message_cannot_be_put_back(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    message = await anna.say(chat, "gone")
    row = await Row.take(backend, "messages", message["id"])
    await anna.delete(f"/messages/{message['id']}", expect=204, for_everyone=True)
    await row.put_back()
    assert await texts_of(bruno, chat) == {message["id"]: None}
    await expect_event(backend, "messages", "body", message["id"])


async def test_an_earlier_name_cannot_be_put_back(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    await anna.say(chat, "hello")
    row = await Row.take(backend, "users", anna.id)
    await anna.put("/users/me", {"first_name": "Renamed", "bio": "a new one"})
    await row.put_back()

    [message] = await bruno.history(chat)
    assert message["text"] == "hello"
    assert message["sender"]["first_name"] == ""
    assert (await bruno.get(f"/users/{anna.id}"))["first_name"] == ""
    assert (await anna.get("/users/me"))["bio"] is None
    await expect_event(backend, "users", "first_name", anna.id)
    # A new name heals the row.
    await anna.put("/users/me", {"first_name": "Healed"})
    assert (await bruno.get(f"/users/{anna.id}"))["first_name"] == "Healed"


async def test_a_name_that_was_copied_from_another_person_shows_as_empty(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    chat = await anna.group("Group", [bruno, clara])
    await copy_value(backend, "users", "first_name", source=anna.id, to=bruno.id)
    members = await clara.walk(f"/chats/{chat['id']}/members")
    names = {member["user"]["id"]: member["user"]["first_name"] for member in members}
    assert names == {anna.id: "Anna", bruno.id: "", clara.id: "Clara"}
    await expect_event(backend, "users", "first_name", bruno.id)


async def test_an_earlier_title_cannot_be_put_back(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat, other = await anna.group("Before", [bruno]), await anna.group("Other", [bruno])
    row = await Row.take(backend, "chats", chat["id"])
    await anna.put(f"/chats/{chat['id']}", {"title": "After"})
    await row.put_back("title")
    titles = {item["id"]: item["title"] for item in await bruno.walk("/chats/")}
    assert titles == {chat["id"]: None, other["id"]: "Other"}
    await expect_event(backend, "chats", "title", chat["id"])


async def test_a_key_that_was_moved_opens_nothing_and_harms_nobody_else(backend: Backend) -> None:
    anna, bruno, clara = await backend.people(3)
    broken, whole = await anna.group("Broken", [bruno]), await anna.group("Whole", [bruno])
    message = await anna.say(broken, "text")
    other = await anna.say(whole, "text")
    owner = f"chat:{broken['id']}"
    # A damaged key and one that is not in any worker's memory look the same.
    await change_rows(
        backend.deployment,
        f"UPDATE keys SET wrapped = (SELECT wrapped FROM keys WHERE id = 'chat:{whole['id']}')"
        f" WHERE id = '{owner}'",
    )
    await drop_cached_keys(backend)

    async def is_shut() -> bool:
        return (await texts_of(bruno, broken))[message["id"]] is None

    await eventually(is_shut)
    await expect_event(backend, "keys", "wrapped", owner)

    async def is_refused() -> bool:
        # The workers drop what they had one after the other.
        body = {"chat_id": broken["id"], "text": "x"}
        answer = await anna.call("POST", "/messages/", body)
        return (answer.status_code, answer.json().get("code")) == (503, "key_unreadable")

    await eventually(is_refused)
    assert (await texts_of(bruno, whole))[other["id"]] == "text"
    await anna.say(whole, "more")
    assert clara.id


async def drop_cached_keys(backend: Backend) -> None:
    """As a change of keys does."""
    await change_rows(backend.deployment, "DELETE FROM server_state WHERE name = 'keys_generation'")
    await change_rows(
        backend.deployment,
        "INSERT INTO server_state (name, value)"
        " VALUES ('keys_generation', CAST((SELECT count(*) FROM keys) AS TEXT) || 'test')",
    )


async def test_plain_bytes_in_the_place_of_ciphertext_are_refused(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    message = await anna.say(chat, "true")
    forged = b"\x00" + json.dumps({"text": "forged"}).encode()
    await change_rows(
        backend.deployment,
        f"UPDATE messages SET body = {literal(backend, forged)} WHERE id = {message['id']}",
    )
    assert await texts_of(bruno, chat) == {message["id"]: None}
    await expect_event(backend, "messages", "body", message["id"])


async def test_one_value_is_recorded_once_a_minute(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    first, second = await anna.say(chat, "one"), await anna.say(chat, "two")
    await copy_value(backend, "messages", "body", source=first["id"], to=second["id"])
    for _ in range(20):
        await bruno.history(chat)
    await expect_event(backend, "messages", "body", second["id"])
    # Each of at most three workers tells it once.
    assert await events_about(backend, "messages", "body", second["id"]) <= 3


async def test_a_code_does_not_sign_in_to_a_number_that_was_moved(backend: Backend) -> None:
    anna = await backend.sign_up()
    await backend.ask_code(anna.phone)
    mine = backend.deployment.next_phone()
    verification_id, code = await backend.ask_code(mine)
    target = await read_values(
        backend.deployment,
        f"SELECT id FROM phone_verifications WHERE public_id = '{verification_id}'",
    )
    others = await read_values(
        backend.deployment,
        f"SELECT max(id) FROM phone_verifications WHERE id < {target[0]}",
    )
    await copy_value(
        backend, "phone_verifications", "phone", source=int(str(others[0])), to=int(str(target[0]))
    )
    body = {"verification_id": verification_id, "code": code}
    await backend.stranger().post("/auth/verify-code", body, expect=400)
    await expect_event(backend, "phone_verifications", "phone", int(str(target[0])))


@pytest.mark.parametrize("is_damaged", [False, True])
async def test_a_phone_does_not_sign_in_to_a_row_that_was_given_its_index(
    backend: Backend, *, is_damaged: bool
) -> None:
    victim, thief = await backend.people(2)
    [index] = await read_values(
        backend.deployment, f"SELECT phone_index FROM users WHERE id = {thief.id}"
    )
    damage = f", phone = {literal(backend, bytes(60))}" if is_damaged else ""
    for change in (
        f"UPDATE users SET phone_index = NULL WHERE id = {thief.id}",
        f"UPDATE users SET phone_index = {literal(backend, index)}{damage} WHERE id = {victim.id}",
    ):
        assert await change_rows(backend.deployment, change) == 1
    verification_id, code = await backend.ask_code(thief.phone)
    body = {"verification_id": verification_id, "code": code}
    await backend.stranger().post("/auth/verify-code", body, expect=400, code="code_expired")
    await expect_event(backend, "users", "phone_index", victim.id)


async def test_difference_and_search_answer_beside_a_damaged_row(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    first, second = await anna.say(chat, "one"), await anna.say(chat, "two")
    await copy_value(backend, "messages", "body", source=first["id"], to=second["id"])
    await copy_value(backend, "users", "last_name", source=bruno.id, to=anna.id)
    await copy_value(backend, "users", "first_name", source=bruno.id, to=anna.id)
    socket = await bruno.connect()
    state = {f"chat:{chat['id']}": 0}
    body = {"epoch": socket.hello["epoch"], "state": state}
    answer = await bruno.post("/updates/difference", body)
    said = [update["data"] for update in answer["updates"] if update["type"] == "new_message"]
    assert [(item["id"], item.get("text")) for item in said] == [
        (first["id"], "one"),
        (second["id"], None),
    ]
    found = await bruno.get("/users/search", q=anna.phone)
    assert [item["id"] for item in found["items"]] == [anna.id]
