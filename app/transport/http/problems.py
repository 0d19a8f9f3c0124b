"""Problems over HTTP (RFC 9457): the one table from kinds to statuses, the answers, and their part of OpenAPI.

No answer repeats what the caller sent, and none tells anything about the inside.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Final, cast

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException  # noqa: TID251 - caught here, never raised
from starlette.responses import Response
from starlette.types import Scope

from app.infra.logging.context import current_log_context
from app.kernel.problems import (
    BadRequest,
    FieldError,
    Invalid,
    Kind,
    MethodNotAllowed,
    NotFound,
    Problem,
    TooLarge,
    UnsupportedMediaType,
)
from app.transport.http.refusals import record_http_refusal

PROBLEM_MEDIA_TYPE: Final = "application/problem+json"
PROBLEM_SCHEMA: Final = "Problem"

STATUS: Final[Mapping[Kind, int]] = {
    Kind.INVALID: 422,
    Kind.BAD_REQUEST: 400,
    Kind.UNAUTHENTICATED: 401,
    Kind.FORBIDDEN: 403,
    Kind.NOT_FOUND: 404,
    Kind.METHOD_NOT_ALLOWED: 405,
    Kind.CONFLICT: 409,
    Kind.PRECONDITION_FAILED: 412,
    Kind.TOO_LARGE: 413,
    Kind.URI_TOO_LONG: 414,
    Kind.UNSUPPORTED_MEDIA_TYPE: 415,
    Kind.RANGE_NOT_SATISFIABLE: 416,
    Kind.RATE_LIMITED: 429,
    Kind.CHECKSUM_MISMATCH: 460,
    Kind.UNAVAILABLE: 503,
    Kind.INSUFFICIENT_STORAGE: 507,
}

# Of tus 1.0, in no registry of HTTP.
_OWN_PHRASES: Final[Mapping[int, str]] = {460: "Checksum Mismatch"}

INTERNAL_ERROR_CODE: Final = "internal_error"
UNAVAILABLE_RETRY_SECONDS: Final = 5

_MAX_ERRORS = 32
_MAX_FIELD_LENGTH = 100
_MAX_MESSAGE_LENGTH = 200
_LOCATIONS = frozenset({"body", "query", "path", "header", "cookie"})
_UNSAFE_IN_FIELD = re.compile(r"[^A-Za-z0-9_.\-]")

# Pydantic's own words for these quote a part of the input.
_MESSAGES: Final[Mapping[str, str]] = {
    "union_tag_invalid": "Input has an unknown tag",
    "uuid_parsing": "Input should be a valid UUID",
    "json_invalid": "Input should be valid JSON",
    "datetime_parsing": "Input should be a valid time",
    "datetime_from_date_parsing": "Input should be a valid time",
    "url_parsing": "Input should be a valid URL",
    "string_pattern_mismatch": "Text does not have the required form",
    "extra_forbidden": "This field is not known",
}

# Raised by the framework itself, not by us.
_HTTP_PROBLEMS: Final[Mapping[int, type[Problem]]] = {
    400: BadRequest,
    404: NotFound,
    405: MethodNotAllowed,
    413: TooLarge,
    415: UnsupportedMediaType,
    422: Invalid,
}


def status_of(problem: Problem) -> int:
    return STATUS[problem.kind]


def problem_document(problem: Problem) -> dict[str, object]:
    """The document with its status; also the `error` of a WebSocket frame."""
    return problem.document(status_of(problem))


def problem_response(problem: Problem) -> Response:
    """The problem document with the headers that its kind asks for."""
    status = status_of(problem)
    headers = dict(problem.headers)
    retry_after = problem.retry_after
    if retry_after is None and problem.kind is Kind.UNAVAILABLE:
        retry_after = UNAVAILABLE_RETRY_SECONDS
    if retry_after is not None:
        headers["Retry-After"] = str(max(1, retry_after))
    if problem.kind is Kind.UNAUTHENTICATED:
        headers.setdefault("WWW-Authenticate", "Bearer")
    return _answer(problem.document(status), status, headers)


def internal_error_response(request_id: str) -> Response:
    """The answer to a bug: the id under which the log holds the trace, nothing else."""
    return _answer(
        {
            "type": f"/problems/{INTERNAL_ERROR_CODE}",
            "title": "Internal server error",
            "status": 500,
            "detail": "Something went wrong on our side",
            "code": INTERNAL_ERROR_CODE,
            "request_id": request_id,
        },
        500,
        {},
    )


def field_errors(errors: Iterable[Mapping[str, object]]) -> list[FieldError]:
    """Pydantic's errors as ours: where and what, never the value; bounded in number and length."""
    result: list[FieldError] = []
    for error in errors:
        if len(result) == _MAX_ERRORS:
            break
        location = cast("Sequence[str | int]", error.get("loc", ()))
        message = _MESSAGES.get(str(error.get("type"))) or str(error.get("msg", "Invalid value"))
        result.append(
            FieldError(
                _field_name(location), message.removeprefix("Value error, ")[:_MAX_MESSAGE_LENGTH]
            )
        )
    return result


def install_problem_handlers(app: FastAPI) -> None:
    """Every refusal of this app is a problem document."""
    app.add_exception_handler(Problem, _handle_problem)
    app.add_exception_handler(RequestValidationError, _handle_validation_error)
    app.add_exception_handler(HTTPException, _handle_http_exception)


def problem_responses(*statuses: int) -> dict[int | str, dict[str, object]]:
    """For `responses=` of a route: these statuses answer with a problem document."""
    schema = {"$ref": f"#/components/schemas/{PROBLEM_SCHEMA}"}
    return {
        status: {
            "description": _OWN_PHRASES.get(status) or HTTPStatus(status).phrase,
            "content": {PROBLEM_MEDIA_TYPE: {"schema": schema}},
        }
        for status in statuses
    }


def problem_schema() -> dict[str, object]:
    """JSON schema of the problem document, the component that `problem_responses` refers to."""
    text = {"type": "string"}
    error = {
        "type": "object",
        "required": ["field", "message"],
        "properties": {"field": text, "message": text},
    }
    return {
        "title": PROBLEM_SCHEMA,
        "description": "RFC 9457. Clients switch on `code`; some codes carry further members.",
        "type": "object",
        "required": ["type", "title", "status", "detail", "code"],
        "properties": {
            "type": {"type": "string", "format": "uri-reference"},
            "title": text,
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": text,
            "code": {"type": "string", "pattern": "^[a-z][a-z0-9_]*$"},
            "errors": {"type": "array", "items": error},
            "request_id": text,
        },
        "additionalProperties": True,
    }


def route_template(scope: Scope) -> str:
    """`/api/v1/chats/{chat_id}`: never the path itself, which may hold a token or an invite."""
    included = scope.get("fastapi", {}).get("effective_route_context")
    path = getattr(included, "path", None) or getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else "-"


async def _handle_problem(request: Request, error: Exception) -> Response:
    problem = cast("Problem", error)
    record_http_refusal(request.scope, problem, route=route_template(request.scope))
    return problem_response(problem)


async def _handle_validation_error(_request: Request, error: Exception) -> Response:
    errors = cast("Sequence[Mapping[str, object]]", cast("RequestValidationError", error).errors())
    return problem_response(Invalid(errors=field_errors(errors)))


async def _handle_http_exception(request: Request, error: Exception) -> Response:
    error = cast("HTTPException", error)
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed_methods(request))
    known = _HTTP_PROBLEMS.get(error.status_code)
    if known is not None:
        return await _handle_problem(request, known(headers=headers))
    if error.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        context = current_log_context()
        return internal_error_response(context.request_id if context else "")
    phrase = HTTPStatus(error.status_code).phrase
    code = phrase.lower().replace(" ", "_").replace("-", "_")
    document: dict[str, object] = {
        "type": f"/problems/{code}",
        "title": phrase,
        "status": error.status_code,
        "detail": phrase,
        "code": code,
    }
    return _answer(document, error.status_code, headers)


def _allowed_methods(request: Request) -> list[str]:
    """Of all routes with this path (RFC 9110 section 15.5.6); the framework names those of one."""
    app = cast("FastAPI", request.app)
    methods: set[str] = set()
    for context in iter_route_contexts(app.routes):
        pattern = context.path_regex
        if pattern is not None and pattern.match(request.scope["path"]):
            methods |= context.methods or set()
    return sorted(methods)


def _field_name(location: Sequence[str | int]) -> str:
    """`("body", "contacts", 3, "phone")` -> `contacts.3.phone`; unknown names are the caller's own words."""
    parts = location[1:] if location and location[0] in _LOCATIONS else location
    name = ".".join(str(part)[:_MAX_FIELD_LENGTH] for part in parts)
    return _UNSAFE_IN_FIELD.sub("?", name)[:_MAX_FIELD_LENGTH]


def _answer(document: Mapping[str, object], status: int, headers: Mapping[str, str]) -> Response:
    return Response(
        orjson.dumps(document),
        status_code=status,
        headers=dict(headers),
        media_type=PROBLEM_MEDIA_TYPE,
    )
