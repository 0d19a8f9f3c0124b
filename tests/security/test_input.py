"""Hostile input from outside (group D).

Most of this group lives elsewhere: `tests/contract/test_strict_input.py` (D1, D2, D3, D5),
`tests/unit/transport/http/test_strict_json.py` (D4: depth, bombs), `test_middleware.py` (D4:
headers), `tests/features/users/test_search.py` (D6), `tests/features/users/test_limits.py` and
`tests/features/chats/test_limits.py` (D7), `tests/unit/kernel/test_text.py` and
`test_entities.py` (D8), and the generated requests of `tests/contract/test_openapi.py`.
"""

import pytest

from tests.support.people import Backend

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        "java\tscript:alert(1)",
        " javascript:alert(1)",
        "data:text/html,<script>1</script>",
        "vbscript:x",
        "file:///etc/passwd",
        "blob:https://a/b",
        "ftp://a/b",
        "//evil.example/x",
        "/relative",
        "https://",
        "http://a b/",
        "https://\u202eevil.example",
    ],
)
async def test_a_link_leads_to_no_other_scheme(backend: Backend, url: str) -> None:
    """D8: what a client makes clickable is http, https, mailto or tg."""
    anna = await backend.sign_up()
    chat = await anna.private_chat(anna)
    link = [{"type": "text_link", "offset": 0, "length": 4, "url": url}]
    body = {"chat_id": chat["id"], "text": "link", "entities": link}
    await anna.post("/messages/", body, expect=422)
    assert await anna.history(chat) == []


@pytest.mark.parametrize("url", ["https://a.example/", "mailto:a@b.example", "tg://user?id=1"])
async def test_links_of_known_schemes_are_kept(backend: Backend, url: str) -> None:
    anna = await backend.sign_up()
    link = [{"type": "text_link", "offset": 0, "length": 4, "url": url}]
    sent = await anna.say(await anna.private_chat(anna), "link", entities=link)
    assert sent["entities"][0]["url"] == url


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "W10=",
        "e30=",
        "AAAA",
        "1",
        "-1",
        "null",
        "../../x",
        "%00",
        "a" * 5000,
        "eyJpZCI6MX0.sig",
    ],
)
async def test_a_cursor_is_taken_only_as_it_was_given(backend: Backend, cursor: str) -> None:
    """D3: cursors are signed, and bound to their list."""
    anna = await backend.sign_up()
    for path in ("/chats/", "/users/contacts", "/users/blocked", "/auth/sessions"):
        await anna.get(path, cursor=cursor, expect=422)


async def test_a_cursor_of_one_list_opens_no_other(backend: Backend) -> None:
    """D3, C1: nor does it work for somebody else."""
    anna, bruno, *others = await backend.people(4)
    for person in others:
        await anna.put(f"/users/blocked/{person.id}")
        await anna.private_chat(person)
    cursors = [
        (await anna.get(path, limit=1))["next_cursor"] for path in ("/users/blocked", "/chats/")
    ]
    await anna.get("/chats/", cursor=cursors[0], expect=422)
    await anna.get("/users/blocked", cursor=cursors[1], expect=422)
    answer = await bruno.call("GET", "/chats/", query={"cursor": cursors[1]})
    assert answer.status_code == 422 or answer.json()["items"] == []


@pytest.mark.parametrize(
    "text",
    [
        "(a+)+$" + "a" * 60,
        "a" * 99 + "!",
        "%" * 100,
        "_" * 100,
        "{0.__class__}",
        "%s%s%n",
        "${jndi:ldap://x/y}",
        "' OR 1=1 --",
        '"; DROP TABLE users; --',
        "\\",
        "a\u0301" * 50,
        "\u202e\u2066",
        "\ufdfa" * 100,
    ],
)
async def test_a_search_is_words_and_nothing_else(backend: Backend, text: str) -> None:
    """D6: no pattern, template, format string or SQL is made of what is searched for."""
    anna = await backend.sign_up()
    answer = await anna.call("GET", "/users/search", query={"q": text})
    assert answer.status_code in {200, 422}
    assert answer.status_code == 422 or answer.json()["items"] == []
    assert answer.elapsed.total_seconds() < 2


async def test_a_refusal_of_much_is_small(backend: Backend) -> None:
    """D5: a megabyte of faults is answered by no more than 16 KB."""
    anna = await backend.sign_up()
    entry = '{"phone": 1, "first_name": 2, "last_name": 3, "nonsense": 4}'
    content = ('{"contacts": [' + ",".join([entry] * 5000) + "]}").encode()
    answer = await anna.call("POST", "/users/contacts", content=content)
    assert answer.status_code == 422
    assert len(answer.content) <= 16_384
