"""The sockets, and the difference over HTTP."""

from typing import cast

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.routing import WebSocketRoute

from app.features.gateway.difference import find_difference
from app.features.gateway.runtime import Gateway
from app.features.gateway.schemas import Difference, DifferenceRequest
from app.features.gateway.sockets import socket_endpoint
from app.features.sessions.dependencies import CurrentSessionDep
from app.transport.http.answers import JSON_MEDIA_TYPE
from app.transport.http.dependencies import ServicesDep
from app.transport.http.limits import limited_by
from app.transport.http.problems import problem_responses
from app.transport.http.routing import SliceRouter
from app.transport.limits import LimitClass

router = SliceRouter(prefix="/updates", tags=["Updates"])

socket_router = APIRouter(
    routes=[
        WebSocketRoute("/ws/{token}", socket_endpoint(of_chat=False)),
        WebSocketRoute("/ws/chat/{chat_id}/{token}", socket_endpoint(of_chat=True)),
    ]
)


@router.post("/difference", response_model=Difference, responses=problem_responses(401, 422))
@limited_by(LimitClass.CATCH_UP)
async def get_difference(
    body: DifferenceRequest,
    request: Request,
    services: ServicesDep,
    session: CurrentSessionDep,
) -> Response:
    """Everything missed since `state`, for clients that poll or have just come back."""
    gateway = cast("Gateway", request.app.state.gateway)
    found = await find_difference(
        services,
        gateway.kinds,
        user_id=session.user_id,
        epoch=body.epoch,
        state=body.state,
        limit=body.limit,
    )
    answer = {
        "epoch": found.epoch,
        "updates": [orjson.Fragment(frame) for frame in found.updates],
        "resets": [{"scope": scope, "seq": seq} for scope, seq in found.resets.items()],
        "state": found.state,
        "has_more": found.has_more,
    }
    return Response(orjson.dumps(answer), media_type=JSON_MEDIA_TYPE)
