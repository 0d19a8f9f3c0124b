"""Every sealed column, one after the other: a value that was copied from a neighbour, or put back after it was
replaced, reads as nothing, is recorded, and harms nothing beside it.

`test_ciphertext.py` looks at messages and keys more closely.
"""

import secrets
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pyotp.totp import TOTP

import app.bootstrap  # noqa: F401 - imports every slice, and with it every table
from app.infra.cipher.places import list_places
from tests.conftest import BACKENDS
from tests.security.test_ciphertext import expect_event, literal
from tests.support.lone_servers import lone_server
from tests.support.people import Backend, Deployment, Json, Person
from tests.support.rows import change_rows, read_values
from tests.support.shown_files import show
from tests.support.tus import begin, describe
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


@dataclass
class Case:
    """Two rows of a column, what a reader sees in the first and the second, and a change of the second.

    `nothing`: what a value shows that does not open.
    """

    rows: tuple[int, int]
    show: Callable[[], Awaitable[list[Json]]]
    change: Callable[[], Awaitable[object]] | None = None
    nothing: Json = None
    key: str = "id"


def of_user(column: str, nothing: Json = None) -> Callable[[Backend], Awaitable[Case]]:
    """A field of a profile, as its owner sees it."""

    async def make(backend: Backend) -> Case:
        people = await backend.people(2)
        for number, person in enumerate(people):
            await person.put("/users/me", {column: f"value {number}"}, expect=200)

        async def show() -> list[Json]:
            return [(await person.get("/users/me"))[column] for person in people]

        return Case(
            rows=(people[0].id, people[1].id),
            show=show,
            change=lambda: people[1].put("/users/me", {column: "value 2"}, expect=200),
            nothing=nothing,
        )

    return make


async def of_phone(backend: Backend) -> Case:
    people = await backend.people(2)

    async def show() -> list[Json]:
        return [(await person.get("/users/me"))["phone"] for person in people]

    return Case(rows=(people[0].id, people[1].id), show=show)


def of_contact(column: str, nothing: Json = None) -> Callable[[Backend], Awaitable[Case]]:
    async def make(backend: Backend) -> Case:
        anna, *others = await backend.people(3)

        async def save(person: Person, name: str) -> None:
            contact = {"phone": person.phone, "first_name": "x", column: name}
            await anna.post("/users/contacts", {"contacts": [contact]}, expect=200)

        rows: list[int] = []
        for number, person in enumerate(others):
            await save(person, f"value {number}")
            query = f"SELECT id FROM contacts WHERE user_id = {person.id}"
            [row] = await read_values(backend.deployment, query)
            rows.append(int(str(row)))

        async def show() -> list[Json]:
            items = await anna.walk("/users/contacts")
            names = {item["id"]: item["contact"][column] for item in items}
            return [names[person.id] for person in others]

        return Case(
            rows=(rows[0], rows[1]),
            show=show,
            change=lambda: save(others[1], "value 2"),
            nothing=nothing,
        )

    return make


def of_chat(column: str) -> Callable[[Backend], Awaitable[Case]]:
    async def make(backend: Backend) -> Case:
        anna, bruno = await backend.people(2)
        chats = [
            await anna.group("Group", [bruno], **{column: f"value {number}"})
            if column != "title"
            else await anna.group(f"value {number}", [bruno])
            for number in range(2)
        ]

        async def show() -> list[Json]:
            return [(await bruno.chat(chat))[column] for chat in chats]

        return Case(
            rows=(chats[0]["id"], chats[1]["id"]),
            show=show,
            change=lambda: anna.put(f"/chats/{chats[1]['id']}", {column: "value 2"}, expect=200),
        )

    return make


async def of_message(backend: Backend) -> Case:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    sent = [await anna.say(chat, f"value {number}") for number in range(2)]

    async def show() -> list[Json]:
        texts = {item["id"]: item.get("text") for item in await bruno.history(chat)}
        return [texts[message["id"]] for message in sent]

    path = f"/messages/{sent[1]['id']}"
    return Case(
        rows=(sent[0]["id"], sent[1]["id"]),
        show=show,
        change=lambda: anna.put(path, {"text": "value 2"}, expect=200),
    )


async def of_device_name(backend: Backend) -> Case:
    anna = await backend.sign_up(device_name="value 0")
    await backend.sign_in(anna.phone, device_name="value 1")
    rows = await session_ids(anna)
    return Case(rows=rows, show=lambda: show_sessions(anna, "device_name"))


async def of_place(backend: Backend) -> Case:
    anna = await backend.sign_up()
    other = await backend.sign_in(anna.phone)

    async def move() -> None:
        """A device tells where it is when it refreshes its tokens."""
        body = {"refresh_token": other.tokens["refresh_token"]}
        head = {"X-Forwarded-For": "198.51.100.7"}
        answer = await backend.stranger().call("POST", "/auth/refresh-token", body, headers=head)
        assert answer.status_code == 200

    rows = await session_ids(anna)
    return Case(rows=rows, show=lambda: show_sessions(anna, "place"), change=move)


async def session_ids(person: Person) -> tuple[int, int]:
    first, second = sorted(item["id"] for item in (await person.get("/auth/sessions"))["items"])
    return first, second


async def show_sessions(person: Person, column: str) -> list[Json]:
    items = (await person.get("/auth/sessions"))["items"]
    return [item[column] for item in sorted(items, key=lambda item: item["id"])]


def of_factor(
    set_it: Callable[[Person], Awaitable[object]],
) -> Callable[[Backend], Awaitable[Case]]:
    """A second factor that does not open lets nobody in, and is shown to nobody as being off."""

    async def make(backend: Backend) -> Case:
        people = await backend.people(2)
        for person in people:
            await set_it(person)

        async def show() -> list[Json]:
            answers = [await person.call("GET", "/auth/two-step") for person in people]
            return [(it.status_code, it.json().get("code")) for it in answers]

        return Case(
            rows=(people[0].id, people[1].id),
            show=show,
            change=lambda: set_it(people[1]),
            nothing=(503, "key_unreadable"),
            key="user_id",
        )

    return make


async def set_password(person: Person) -> None:
    password = f"horse battery {secrets.token_hex(4)}"
    await person.put("/auth/two-step", {"password": password}, expect=200)


async def ask_for_secret(person: Person) -> str:
    return (await person.post("/auth/two-step/totp", expect=201))["secret"]


async def set_app(person: Person) -> None:
    code = TOTP(await ask_for_secret(person)).now()
    await person.put("/auth/two-step", {"totp": code}, expect=200)


async def of_file(backend: Backend) -> Case:
    """What was uploaded is shown with its message, or not at all."""
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    messages = [await show(anna, chat) for _ in range(2)]

    async def look() -> list[Json]:
        items = {item["id"]: item["attachments"] for item in await bruno.history(chat)}
        return [
            [file["original_name"] for file in items[message["id"]]] or None for message in messages
        ]

    ids = [message["attachments"][0]["id"] for message in messages]
    return Case(rows=(ids[0], ids[1]), show=look)


async def of_upload(backend: Backend) -> Case:
    anna = await backend.sign_up()
    names = [describe(filename=f"value {number}.txt") for number in range(2)]
    uploads = [await begin(anna, 10, metadata=name) for name in names]
    tokens = [upload.path.rpartition("/")[2] for upload in uploads]
    rows = [await upload_id(backend, token) for token in tokens]

    async def look() -> list[Json]:
        answers = [await upload.head() for upload in uploads]
        return [(it.status_code, it.headers.get("upload-metadata")) for it in answers]

    return Case(rows=(rows[0], rows[1]), show=look, nothing=(404, None))


async def upload_id(backend: Backend, token: str) -> int:
    [row] = await read_values(backend.deployment, f"SELECT id FROM uploads WHERE token = '{token}'")
    return int(str(row))


COLUMNS: dict[str, Callable[[Backend], Awaitable[Case]]] = {
    "users.first_name": of_user("first_name", ""),
    "users.last_name": of_user("last_name"),
    "users.bio": of_user("bio"),
    "users.phone": of_phone,
    "contacts.first_name": of_contact("first_name", ""),
    "contacts.last_name": of_contact("last_name"),
    "chats.title": of_chat("title"),
    "chats.description": of_chat("description"),
    "messages.body": of_message,
    "sessions.device_name": of_device_name,
    "sessions.place": of_place,
    "files.details": of_file,
    "uploads.details": of_upload,
    "second_factors.password_hash": of_factor(set_password),
    "second_factors.totp_secret": of_factor(set_app),
    "second_factors.pending_secret": of_factor(ask_for_secret),
}
# Never replaced by anybody.
UNCHANGING = {"users.phone", "sessions.device_name", "files.details", "uploads.details"}
# Of the code of a sign-in: test_ciphertext.py. Of the record: what is chained is found by `audit verify`.
ELSEWHERE = {"phone_verifications.phone", "audit_events.personal"}


@pytest.fixture(scope="module", params=BACKENDS)
def deployment(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """A server behind a proxy, so that a device can move."""
    settings = {"TRUSTED_PROXIES": "127.0.0.1"}
    with (
        tempfile.TemporaryDirectory(prefix="messenger-test-") as directory,
        lone_server(request, Path(directory), settings) as made,
    ):
        yield made


def test_every_sealed_column_is_attacked() -> None:
    """What is sealed for a minute is not worth moving."""
    sealed = {str(place.column) for place in list_places() if not place.sealed.brief}
    assert sealed - ELSEWHERE == COLUMNS.keys(), "write down how the new column is set and shown"
    revised = {str(place.column) for place in list_places() if place.sealed.revised}
    assert COLUMNS.keys() - revised <= UNCHANGING


@pytest.mark.parametrize("name", COLUMNS)
async def test_a_value_of_a_neighbour_does_not_open(backend: Backend, name: str) -> None:
    case = await COLUMNS[name](backend)
    first, _ = await case.show()
    table, column = name.split(".")
    value = await stored(backend, name, case.rows[0], case.key)
    await store(backend, name, case.rows[1], case.key, value)
    assert await case.show() == [first, case.nothing]
    await expect_event(backend, table, column, case.rows[1])


@pytest.mark.parametrize("name", sorted(COLUMNS.keys() - UNCHANGING))
async def test_an_earlier_value_does_not_open(backend: Backend, name: str) -> None:
    case = await COLUMNS[name](backend)
    assert case.change is not None
    first, before = await case.show()
    table, column = name.split(".")
    value = await stored(backend, name, case.rows[1], case.key)
    await case.change()
    is_secret = table == "second_factors"
    assert ((await case.show())[1] == before) == is_secret
    await store(backend, name, case.rows[1], case.key, value)
    assert await case.show() == [first, case.nothing]
    await expect_event(backend, table, column, case.rows[1])


async def test_an_upload_of_which_nobody_knows_what_it_was_fails_for_good(
    backend: Backend,
) -> None:
    """It must not hold up those that wait behind it, nor be tried for ever."""
    case = await of_upload(backend)
    await store(backend, "uploads.details", case.rows[1], "id", b"damaged")
    await change_rows(
        backend.deployment,
        f"UPDATE uploads SET state = 'finishing', finish_at = 1 WHERE id = {case.rows[1]}",
    )
    state = f"SELECT state FROM uploads WHERE id = {case.rows[1]}"

    async def has_failed() -> bool:
        return await read_values(backend.deployment, state) == ["failed"]

    await eventually(has_failed, timeout_seconds=20, what="the end of the upload")


async def stored(backend: Backend, name: str, row: int, key: str) -> object:
    table, column = name.split(".")
    query = f"SELECT {column} FROM {table} WHERE {key} = {row}"
    [value] = await read_values(backend.deployment, query)
    return value


async def store(backend: Backend, name: str, row: int, key: str, value: object) -> None:
    table, column = name.split(".")
    change = f"UPDATE {table} SET {column} = {literal(backend, value)} WHERE {key} = {row}"
    assert await change_rows(backend.deployment, change) == 1
