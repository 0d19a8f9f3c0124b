"""A small app at the edge of which everything under test stands."""

from collections.abc import AsyncIterator
from ipaddress import ip_network
from typing import Annotated, Literal

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from app.infra.deadline import seconds_left
from app.infra.logging.context import bind_user
from app.kernel.problems import Forbidden, RateLimited, Unauthenticated, Unavailable
from app.transport.http.answers import created, no_content, ok
from app.transport.http.client_address import ClientAddressDep
from app.transport.http.fields import (
    ChatIdField,
    ChatIdPath,
    ClientMessageId,
    Limit,
    MessageIdPath,
    QueryFlag,
    Rfc3339,
    StrictModel,
    TextLength,
)
from app.transport.http.middleware import install_edge
from app.transport.http.pages import install_pages
from app.transport.http.problems import install_problem_handlers, problem_responses
from app.transport.http.routing import SliceRouter

PROBLEMS = {
    "forbidden": Forbidden,
    "unauthenticated": Unauthenticated,
    "rate_limited": RateLimited,
    "unavailable": Unavailable,
}


class Thing(StrictModel):
    chat_id: ChatIdField
    text: Annotated[str, TextLength(1, 10)]
    kind: Literal["a", "b"] = "a"
    client_message_id: ClientMessageId | None = None
    until: Rfc3339 | None = None


router = SliceRouter(prefix="/things", tags=["Things"])


@router.post("/", status_code=201, response_model=Thing, responses=problem_responses(401))
async def create_thing(body: Thing) -> Response:
    return created(body.model_dump(mode="json"))


@router.get("/{thing_id}")
async def get_thing(
    thing_id: ChatIdPath,
    before: MessageIdPath | None = None,
    limit: Limit = 50,
    *,
    for_everyone: QueryFlag = False,
) -> Response:
    return ok({"id": thing_id, "before": before, "limit": limit, "for_everyone": for_everyone})


@router.delete("/{thing_id}", status_code=204)
async def delete_thing(thing_id: ChatIdPath) -> Response:
    bind_user(7, session_id=8)
    return no_content()


@router.put("/{thing_id}")
async def break_down(thing_id: ChatIdPath) -> Response:
    raise RuntimeError(f"the secret of thing {thing_id}")


@router.get("/problems/{name}")
async def refuse(name: str) -> Response:
    raise PROBLEMS[name](retry_after=3 if name == "rate_limited" else None)


@router.get("/address/mine")
async def get_address(address: ClientAddressDep) -> Response:
    return ok({"address": address})


@router.get("/deadline/stream")
async def tell_deadline_twice(request: Request) -> Response:
    """While the answer is made, and once it is under way."""
    before = seconds_left(100)

    async def pieces() -> AsyncIterator[str]:
        yield f"{before} "
        yield str(seconds_left(100))

    return StreamingResponse(pieces())


@router.post("/deadline/body")
async def tell_deadline_of_body(body: Thing) -> Response:
    return ok({"seconds": seconds_left(100)})


@router.get("/stream/half")
async def half(request: Request) -> Response:
    return _HalfAnAnswer()


class _HalfAnAnswer(Response):
    async def __call__(self, scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("in the middle")


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI(title="Things", openapi_url=None, redirect_slashes=False)
    app.include_router(router, prefix="/api/v1")
    install_problem_handlers(app)
    install_pages(app, enabled=True)
    install_edge(app, trusted_proxies=[ip_network("10.0.0.0/8")], max_body_size=2000)
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, client=("10.1.2.3", 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        yield client
