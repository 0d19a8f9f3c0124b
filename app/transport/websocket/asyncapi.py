"""The AsyncAPI 3 document of the sockets: generated from what is registered, so that it holds only what works."""

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from app.kernel.scopes import ScopeKind
from app.transport.feature import Feature
from app.transport.http.answers import ok
from app.transport.http.problems import PROBLEM_SCHEMA, problem_schema
from app.transport.websocket.close_codes import MEANINGS

ASYNCAPI_PATH = "/asyncapi.json"
_REQUEST_ID = {"oneOf": [{"type": "string", "maxLength": 128}, {"type": "integer"}]}
_REF = "#/components/schemas/{model}"
_INTEGER = {"type": "integer"}
_TEXT = {"type": "string"}
_STATE = {"type": "object", "additionalProperties": _INTEGER}

AsyncApi = dict[str, Any]  # a JSON schema document has no narrower type

# What the server says beside updates, acks and errors: the members of `data`.
_SERVER_FRAMES: dict[str, AsyncApi] = {
    "hello": {
        "user_id": _INTEGER,
        "session_id": _INTEGER,
        "server_time": {"type": "string", "format": "date-time"},
        "heartbeat_seconds": _INTEGER,
        "epoch": _TEXT,
        "state": _STATE,
        "more": {"type": "boolean"},
    },
    "resumed": {"state": _STATE},
    "scope_reset": {"scope": _TEXT, "seq": _INTEGER},
    "pong": {},
    "typing": {"chat_id": _INTEGER, "user_id": _INTEGER, "action": _TEXT},
    "user_online": {"user_id": _INTEGER, "last_seen_at": {"type": ["string", "null"]}},
    "user_offline": {"user_id": _INTEGER, "last_seen_at": {"type": ["string", "null"]}},
    "call": {
        "call_id": _TEXT,
        "chat_id": _INTEGER,
        "kind": _TEXT,
        "action": _TEXT,
        "sdp": _TEXT,
        "candidate": {},
        "reason": _TEXT,
        "from_user_id": _INTEGER,
        "from_device": _INTEGER,
    },
}


def install_asyncapi(
    app: FastAPI,
    features: Iterable[Feature],
    *,
    own_frames: Mapping[str, type[BaseModel]],
    enabled: bool,
) -> None:
    """Serve the document beside OpenAPI. `own_frames`: what the gateway itself takes."""
    if not enabled:
        return
    document = build_asyncapi(features, own_frames=own_frames, title=app.title, version=app.version)

    async def serve_asyncapi(_request: Request) -> Response:
        return ok(document)

    app.add_route(ASYNCAPI_PATH, serve_asyncapi, methods=["GET"], include_in_schema=False)


def build_asyncapi(
    features: Iterable[Feature],
    *,
    own_frames: Mapping[str, type[BaseModel]],
    title: str,
    version: str,
) -> AsyncApi:
    """Frames of clients and of the server, by type."""
    features = tuple(features)
    models = dict(own_frames)
    for feature in features:
        models |= {frame.type: frame.model for frame in feature.frames}
    schemas: AsyncApi = {PROBLEM_SCHEMA: problem_schema()}
    sent = {f"client_{name}": _client_frame(name, models[name], schemas) for name in sorted(models)}
    kinds = {(kind.type, kind.scope) for feature in features for kind in feature.updates}
    received = {name: _server_frame(name, members) for name, members in _SERVER_FRAMES.items()}
    received |= {
        f"{scope.name.lower()}_{name}": _update(name, scope) for name, scope in sorted(kinds)
    }
    received |= {"ack": _ack(), "error": _error()}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": title, "version": version, "description": _describe_codes()},
        "defaultContentType": "application/json",
        "channels": {
            "everything": _channel("/api/v1/ws/{token}", [*sent, *received], ["token"]),
            "chat": _channel(
                "/api/v1/ws/chat/{chat_id}/{token}", [*sent, *received], ["chat_id", "token"]
            ),
        },
        "operations": {
            f"{action}_{channel}": {
                "action": action,
                "channel": {"$ref": f"#/channels/{channel}"},
                "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names],
            }
            # From the server's side, as AsyncAPI 3 has it.
            for action, names in (("receive", sent), ("send", received))
            for channel in ("everything", "chat")
        },
        "components": {"messages": sent | received, "schemas": schemas},
    }


def _channel(address: str, names: Iterable[str], parameters: Iterable[str]) -> AsyncApi:
    return {
        "address": address,
        "parameters": {name: {} for name in parameters},
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
    }


def _client_frame(name: str, model: type[BaseModel], schemas: AsyncApi) -> AsyncApi:
    schema = model.model_json_schema(ref_template=_REF)
    schemas.update(schema.pop("$defs", {}))
    schemas[model.__name__] = schema
    reference = {"$ref": _REF.format(model=model.__name__)}
    return _message(name, {"data": reference, "request_id": _REQUEST_ID}, required=["type"])


def _server_frame(name: str, members: AsyncApi) -> AsyncApi:
    data = {"type": "object", "properties": members}
    return _message(name, {"data": data}, required=["type", "data"])


def _update(name: str, scope: ScopeKind) -> AsyncApi:
    pattern = "^chat:[1-9][0-9]*$" if scope is ScopeKind.CHAT else "^user$"
    members = {
        "scope": {"type": "string", "pattern": pattern},
        "seq": {"type": "integer", "minimum": 1},
        "data": {"type": "object"},
    }
    return _message(name, members, required=["type", "scope", "seq", "data"])


def _ack() -> AsyncApi:
    return _message(
        "ack", {"request_id": _REQUEST_ID, "data": {"type": "object"}}, required=["type", "data"]
    )


def _error() -> AsyncApi:
    problem = {"$ref": _REF.format(model=PROBLEM_SCHEMA)}
    return _message(
        "error", {"request_id": _REQUEST_ID, "error": problem}, required=["type", "error"]
    )


def _message(name: str, members: AsyncApi, *, required: list[str]) -> AsyncApi:
    properties = {"type": {"const": name}, **members}
    payload = {"type": "object", "properties": properties, "required": required}
    return {"name": name, "payload": payload}


def _describe_codes() -> str:
    lines = [f"- {int(code)}: {meaning}" for code, meaning in MEANINGS.items()]
    return "Frames are JSON objects of at most 64 KiB. Close codes:\n\n" + "\n".join(lines)
