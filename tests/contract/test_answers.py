"""The judge of answers can fail."""

from tests.support.openapi import OpenApi
from tests.support.whole_run import list_complaints

OK = {"200": {"content": {"application/json": {"schema": {"type": "integer"}}}}}
DOCUMENT = {
    "paths": {
        "/things": {"get": {"responses": {**OK, "503": {}}}},
        "/things/{id}": {"put": {"responses": {**OK, "404": {}, "503": {}}}},
    }
}


def judged(*answers: tuple[str, str, int, object]) -> OpenApi:
    openapi = OpenApi(DOCUMENT, seen=set(), faults={})
    for method, path, status, body in answers:
        openapi.judge(method, path, status, "application/json", body)
    return openapi


def test_a_good_run_leaves_nothing_to_say() -> None:
    openapi = judged(
        ("GET", "/things", 200, 1),
        ("PUT", "/things/7", 200, 1),
        ("PUT", "/things/7", 404, None),
        ("PUT", "/things/7", 503, None),
    )
    assert list_complaints(openapi, is_whole=True) == []


def test_an_answer_that_is_not_documented_is_named() -> None:
    openapi = judged(("GET", "/things", 404, {"code": "gone"}), ("GET", "/things", 200, "one"))
    assert list_complaints(openapi, is_whole=False) == [
        "GET /things answered 404 gone, which is not documented",
        'GET /things 200: the body: "one" is not of type "integer"',
    ]


def test_what_nothing_provoked_is_named_after_a_whole_run_alone() -> None:
    openapi = judged(("GET", "/things", 200, 1), ("GET", "/things", 503, None))
    assert list_complaints(openapi, is_whole=False) == []
    assert list_complaints(openapi, is_whole=True) == [
        "PUT /things/{id} -> 200 is documented and was never seen",
        "PUT /things/{id} -> 404 is documented and was never seen",
    ]
