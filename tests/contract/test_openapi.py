"""The served OpenAPI document and the server say the same, whatever is sent. `make fuzz` asks more."""

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import anyio.to_thread
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.support.people import API, Backend, Deployment
from tests.support.tus import BODY_TYPE
from tests.support.world import World, make_world

pytestmark = pytest.mark.anyio

# Plain bytes, of which there are as many as anybody sends.
schemathesis.serializer.alias(BODY_TYPE, "application/octet-stream")

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]
# Only these end the session that asks.
ENDS_SESSION = {"POST /auth/logout", "DELETE /users/me"}


def label(operation: Any) -> str:
    """As worlds and the contract name it: without the base path."""
    return f"{operation.method.upper()} {operation.path.removeprefix(API)}"


def harm(operation: Any) -> int:
    """What takes something away comes after what needs it."""
    name = label(operation)
    last = (
        "POST /auth/confirm",
        "POST /auth/verify-password",
        "DELETE /messages/{message_id}",
        "DELETE /chats/{chat_id}/members/{user_id}",
        "DELETE /chats/{chat_id}/invites/{code}",
        "POST /chats/{chat_id}/leave",
        "DELETE /chats/{chat_id}",
        "DELETE /auth/sessions/{session_id}",
        "DELETE /auth/sessions",
        "PUT /auth/two-step",
        "DELETE /auth/two-step",
        "DELETE /users/me",
        "POST /auth/logout",
    )
    if name in last:
        return 2 + last.index(name)
    return int(operation.method.upper() == "DELETE")


def load_operations(deployment: Deployment) -> list[Any]:
    schema = schemathesis.openapi.from_dict(deployment.openapi.document)
    operations = [result.ok() for result in schema.get_all_operations()]
    assert operations
    return operations


async def test_every_operation_succeeds_with_a_good_request(backend: Backend) -> None:
    failed: list[str] = []
    operations = sorted(backend.deployment.openapi.operations, key=harm)
    world = await make_world(backend)
    for operation in operations:
        name = label(operation)
        if name in ENDS_SESSION:
            world = await make_world(backend)
        path = operation.path.removeprefix(API)
        for part in [part for part in path.split("/") if part.startswith("{")]:
            path = path.replace(part, str(world.path_value(name, part.strip("{}"))))
        answer = await world.anna.call(
            operation.method.upper(),
            path,
            world.body(name),
            query=world.query(name),
            **world.form(name),
        )
        if not answer.is_success:
            failed.append(f"{name} -> {answer.status_code} {answer.text[:200]}")
    assert not failed, f"{len(failed)} of {len(operations)}:\n" + "\n".join(failed)


async def test_generated_requests_find_no_fault(backend: Backend) -> None:
    faults: dict[str, str] = {}
    world = await make_world(backend)
    for operation in load_operations(backend.deployment):
        if label(operation) in ENDS_SESSION:
            continue
        if not await world.is_whole():
            world = await make_world(backend)
        ask = partial(ask_all, backend.deployment, operation, world, faults)
        await anyio.to_thread.run_sync(ask)
    assert not faults, f"{len(faults)} faults:\n\n" + "\n\n".join(faults.values())


def ask_all(deployment: Deployment, operation: Any, world: World, faults: dict[str, str]) -> None:
    """Requests that fit the schema with existing ids, then such as break it."""
    # A quarter each of what a property of our own gets: a request costs more than a call.
    count = max(5, settings().max_examples // 4)
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        strategy = operation.as_strategy(generation_mode=mode)
        ask = partial(ask_once, deployment, world, faults, random.Random(0))
        bounded = settings(
            max_examples=count,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        # An operation without input can be asked only one way, and wrongly not at all.
        with suppress(Unsatisfiable):
            bounded(given(case=strategy)(hand_on(ask)))()


def hand_on(ask: Callable[[Any], None]) -> Callable[[Any], None]:
    """As hypothesis wants it: a function with a name and no defaults."""

    def ask_case(case: Any) -> None:
        ask(case)

    return ask_case


def ask_once(
    deployment: Deployment, world: World, faults: dict[str, str], chance: random.Random, case: Any
) -> None:
    name = label(case.operation)
    put_existing_values(case, name, world, chance)
    headers = {"Authorization": f"Bearer {world.anna.access_token}"}
    answer = case.call(
        base_url=deployment.nodes[0].base_url, headers=headers, session=session_of(deployment)
    )
    media_type = (answer.headers.get("content-type") or [""])[0].partition(";")[0]
    body = answer.json() if answer.content and media_type.endswith("json") else None
    path = case.operation.path
    deployment.openapi.judge(case.method, path, answer.status_code, media_type, body or None)
    # We sign in all the same, which mends a header that was broken.
    checks = [
        check
        for check in CHECKS
        if check is not negative_data_rejection or "header" not in broken_parts(case)
    ]
    try:
        case.validate_response(answer, checks=checks, headers=headers)
    except BaseException as failure:
        if not isinstance(failure, (AssertionError, BaseExceptionGroup)):
            raise
        for single in failures_of(failure):
            title = f"{name} {type(single).__name__} {answer.status_code}"
            faults.setdefault(title, f"{title}\n{str(failure)[:1500]}")


def failures_of(failure: BaseException) -> Iterator[BaseException]:
    if isinstance(failure, BaseExceptionGroup):
        for single in failure.exceptions:
            yield from failures_of(single)
    else:
        yield failure


def put_existing_values(case: Any, name: str, world: World, chance: random.Random) -> None:
    """Most ids exist, so that the request gets past the first look-up; some stay as generated."""
    negative = broken_parts(case)
    if "path" not in negative and case.path_parameters:
        for key in case.path_parameters:
            if chance.random() < 0.8:
                case.path_parameters[key] = world.path_value(name, key)
    if "body" not in negative and isinstance(case.body, (dict, list)):
        replace_known(case.body, world.substitutes(), chance)


def broken_parts(case: Any) -> set[str]:
    """path, query, header, body: where this request breaks the schema."""
    return {
        str(getattr(location, "value", location))
        for location, info in (case.meta.components if case.meta else {}).items()
        if info.mode is GenerationMode.NEGATIVE
    }


def replace_known(value: Any, known: dict[str, object], chance: random.Random) -> None:
    members = value.items() if isinstance(value, dict) else enumerate(value)
    for key, member in list(members):
        if key in known and member is not None and chance.random() < 0.8:
            value[key] = known[str(key)]
        elif isinstance(member, (dict, list)):
            replace_known(member, known, chance)


SESSIONS: dict[str, requests.Session] = {}


def session_of(deployment: Deployment) -> requests.Session:
    """One connection for thousands of requests."""
    if deployment.name not in SESSIONS:
        SESSIONS[deployment.name] = requests.Session()
        SESSIONS[deployment.name].trust_env = False
    return SESSIONS[deployment.name]
