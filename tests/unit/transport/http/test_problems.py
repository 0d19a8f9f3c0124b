"""Problem documents: statuses, headers, and nothing about the inside."""

import httpx
import pytest

from app.kernel.problems import Kind
from app.transport.http.problems import STATUS, field_errors

URL = "/api/v1/things/"


def test_every_kind_has_a_status() -> None:
    assert set(STATUS) == set(Kind)


@pytest.mark.parametrize(
    ("name", "status", "header"),
    [
        ("forbidden", 403, None),
        ("unauthenticated", 401, ("www-authenticate", "Bearer")),
        ("rate_limited", 429, ("retry-after", "3")),
        ("unavailable", 503, ("retry-after", "5")),
    ],
)
async def test_a_problem_answers_with_its_status_and_headers(
    client: httpx.AsyncClient, name: str, status: int, header: tuple[str, str] | None
) -> None:
    answer = await client.get(f"{URL}problems/{name}")
    assert answer.status_code == answer.json()["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "code"} <= answer.json().keys()
    if header:
        assert answer.headers[header[0]] == header[1]


async def test_an_unknown_route_is_a_problem(client: httpx.AsyncClient) -> None:
    answer = await client.get("/nowhere")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("method", ["PATCH", "TRACE", "OPTIONS", "HEAD"])
async def test_a_wrong_method_names_all_right_ones(client: httpx.AsyncClient, method: str) -> None:
    answer = await client.request(method, f"{URL}1")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "DELETE, GET, PUT"


async def test_a_bug_tells_its_id_and_nothing_else(
    client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = await client.put(f"{URL}5")
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal_error"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert "secret" not in answer.text
    assert "RuntimeError" not in answer.text


def test_errors_are_bounded_in_number_and_length() -> None:
    raw = [{"type": "value_error", "loc": ("body", "x" * 500), "msg": "m" * 5000}] * 1000
    errors = field_errors(raw)
    assert sum(len(error.field) + len(error.message) for error in errors) < 16_000


def test_messages_that_quote_the_input_are_replaced() -> None:
    raw = [{"type": "union_tag_invalid", "loc": ("body",), "msg": "Input tag 'hunter2' found"}]
    assert "hunter2" not in field_errors(raw)[0].message


async def test_openapi_names_our_document_and_no_other(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    operation = document["paths"]["/api/v1/things/"]["post"]
    assert set(operation["responses"]) == {"201", "400", "401", "413", "415", "422", "429", "503"}
    assert list(operation["responses"]["422"]["content"]) == ["application/problem+json"]
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert "Problem" in document["components"]["schemas"]
    parameters = {
        p["name"]: p["schema"]
        for p in document["paths"]["/api/v1/things/{thing_id}"]["get"]["parameters"]
    }
    assert parameters["before"]["minimum"] == 1
    assert "anyOf" not in parameters["before"]
