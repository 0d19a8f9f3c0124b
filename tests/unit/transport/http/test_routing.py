"""Bodies, paths and queries at a strict route: each refusal with its status and code."""

import json
from collections.abc import AsyncIterator

import httpx
import pytest

URL = "/api/v1/things/"
JSON = {"content-type": "application/json"}
GOOD = {"chat_id": 1, "text": "hi"}


async def post(
    client: httpx.AsyncClient, body: bytes, content_type: str = "application/json"
) -> httpx.Response:
    return await client.post(URL, content=body, headers={"content-type": content_type})


async def test_a_good_body_passes(client: httpx.AsyncClient) -> None:
    answer = await client.post(URL, json=GOOD)
    assert (answer.status_code, answer.json()["text"]) == (201, "hi")


@pytest.mark.parametrize(
    "declared", ["application/json; charset=utf-8", 'Application/JSON;charset="UTF8"']
)
async def test_utf8_may_be_declared(client: httpx.AsyncClient, declared: str) -> None:
    assert (await post(client, json.dumps(GOOD).encode(), declared)).status_code == 201


@pytest.mark.parametrize(
    "declared",
    [
        "text/plain",
        "application/json; charset=utf-16",
        "application/x-www-form-urlencoded",
        "application/problem+json",
        "",
    ],
)
async def test_another_content_type_is_415(client: httpx.AsyncClient, declared: str) -> None:
    answer = await post(client, json.dumps(GOOD).encode(), declared)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


async def test_a_compressed_body_is_415(client: httpx.AsyncClient) -> None:
    answer = await client.post(URL, content=b"x", headers=JSON | {"content-encoding": "gzip"})
    assert answer.status_code == 415


async def test_malformed_json_is_400(client: httpx.AsyncClient) -> None:
    answer = await post(client, b'{"chat_id":1,"chat_id":2}')
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_json")


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'"text"', b"1"])
async def test_a_body_that_is_no_object_is_422(client: httpx.AsyncClient, body: bytes) -> None:
    assert (await post(client, body)).status_code == 422


async def test_a_large_body_is_413_by_its_header(client: httpx.AsyncClient) -> None:
    answer = await post(client, b" " * 2001)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert answer.headers["connection"] == "close"


async def test_a_large_body_is_413_in_chunks_without_being_read_whole(
    client: httpx.AsyncClient,
) -> None:
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 500
            yield b" " * 500

    answer = await client.post(URL, content=chunks(), headers=JSON)
    assert answer.status_code == 413
    assert sent < 10_000_000


BAD_FIELDS = [
    ({"chat_id": True}, "chat_id"),
    ({"chat_id": "1"}, "chat_id"),
    ({"chat_id": 1.0}, "chat_id"),
    ({"chat_id": 0}, "chat_id"),
    ({"chat_id": 2**53}, "chat_id"),
    ({"chat_id": 10**30}, "chat_id"),
    ({"text": ""}, "text"),
    ({"text": "\N{GRINNING FACE}" * 6}, "text"),
    ({"text": 5}, "text"),
    ({"kind": "c"}, "kind"),
    ({"client_message_id": "x" * 36}, "client_message_id"),
    ({"until": "tomorrow"}, "until"),
    ({"until": "2026-01-01T00:00:00"}, "until"),
    ({"until": "9999-12-31T23:59:59-23:00"}, "until"),
    ({"until": 1700000000}, "until"),
    ({"sender_id": 5}, "sender_id"),
]


@pytest.mark.parametrize(("change", "field"), BAD_FIELDS)
async def test_a_bad_field_is_named(
    client: httpx.AsyncClient, change: dict[str, object], field: str
) -> None:
    answer = await client.post(URL, json=GOOD | change)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]


async def test_the_value_never_comes_back(client: httpx.AsyncClient) -> None:
    marker = "marker-7f3a"
    body = {
        "chat_id": marker,
        "text": marker * 5,
        "kind": marker,
        "client_message_id": marker,
        "until": marker,
    }
    answer = await client.post(URL, json=body)
    assert answer.status_code == 422
    assert marker not in answer.text


async def test_an_answer_to_many_faults_stays_small(client: httpx.AsyncClient) -> None:
    answer = await client.post(URL, json={f"{'x' * 8}{number}": 1 for number in range(90)})
    assert answer.status_code == 422
    assert len(answer.content) <= 16_384


async def test_names_of_unknown_fields_cannot_carry_control_characters(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.post(URL, json=GOOD | {"\x1b]0;evil\n": 1})
    assert "\\u001b" not in answer.text
    assert "\x1b" not in answer.text


@pytest.mark.parametrize(
    "thing_id",
    ["1_0", "+1", "%201", "01", "0", "-1", "1.0", "1e3", "x", str(2**53), "9" * 30, "%D9%A1"],
)
async def test_an_id_in_the_path_has_one_spelling(client: httpx.AsyncClient, thing_id: str) -> None:
    assert (await client.get(URL + thing_id)).status_code == 422


async def test_a_path_with_u0000_names_nothing(client: httpx.AsyncClient) -> None:
    assert (await client.get(f"{URL}%00")).status_code == 404


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=101",
        "limit=05",
        "limit=5_0",
        "limit=",
        "before=0",
        "before=null",
        "for_everyone=1",
        "for_everyone=True",
        "before=1&before=2",
        "anything=%00",
        "anything=%ff",
        "&".join(f"a{number}=1" for number in range(60)),
    ],
)
async def test_a_bad_query_is_422(client: httpx.AsyncClient, query: str) -> None:
    assert (await client.get(f"{URL}1?{query}")).status_code == 422


async def test_a_good_query_passes(client: httpx.AsyncClient) -> None:
    answer = await client.get(
        f"{URL}1?limit=100&before=9007199254740991&for_everyone=true&unknown=1"
    )
    assert answer.json() == {"id": 1, "before": 2**53 - 1, "limit": 100, "for_everyone": True}


async def test_times_are_cut_to_milliseconds_in_utc(client: httpx.AsyncClient) -> None:
    answer = await client.post(URL, json=GOOD | {"until": "2026-01-01T01:00:00.123456789+01:00"})
    assert answer.json()["until"].startswith("2026-01-01T00:00:00.123")


async def test_a_route_without_parameters_ignores_any_query(client: httpx.AsyncClient) -> None:
    assert (await client.get(f"{URL}address/mine?a=1&a=2")).status_code == 200
