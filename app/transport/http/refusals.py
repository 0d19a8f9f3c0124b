"""Refusals as security events: the one table of which kinds are told, for HTTP and for sockets.

An event names the template of the route, never the path, which may hold a token or an invite.
"""

from collections.abc import Mapping
from typing import Final, cast

from starlette.types import Scope

from app.kernel.events import EventSink, SecurityEvent
from app.kernel.problems import Kind, Problem, Unauthenticated
from app.transport.http.probes import find_probe

_MAX_DIGITS: Final = 16
_NAMES: Final[Mapping[Kind, str]] = {
    Kind.UNAUTHENTICATED: "token_refused",
    Kind.FORBIDDEN: "permission_refused",
    Kind.NOT_FOUND: "not_found",
    Kind.RATE_LIMITED: "rate_limited",
}


def record_refusal(
    events: EventSink, problem: Problem, *, route: str, method: str | None = None
) -> None:
    """Record `problem` if it is a refusal that an attack leads to, and if nobody has done so yet."""
    name = problem.event or _NAMES.get(problem.kind)
    if name is None or problem.is_recorded:
        return
    problem.is_recorded = True
    if problem.kind is Kind.NOT_FOUND and route == "-":
        name = "unknown_route"
    if problem.code == Unauthenticated.code:
        name = "sign_in_missing"
    details = {"route": route, "method": method, "code": problem.code}
    events.record(
        SecurityEvent(
            name,
            details={key: value for key, value in details.items() if value is not None},
            subject=problem.subject,
        )
    )


def record_http_refusal(scope: Scope, problem: Problem, *, route: str) -> None:
    """As `record_refusal`, for the request of `scope`."""
    events = find_events(scope)
    if events is None:
        return
    if problem.subject is None:
        problem.subject = find_subject(scope.get("path_params", {}))
    record_refusal(events, problem, route=route, method=scope.get("method"))


def record_probe(scope: Scope) -> None:
    """Record a path or a query that only an attack has."""
    kind = find_probe(scope)
    events = find_events(scope) if kind is not None else None
    if events is not None:
        events.record(SecurityEvent("probe_seen", details={"kind": kind}))


def find_subject(values: object) -> str | None:
    """`chat_id:5`: the last id among members of a path or a body; other words may be secrets."""
    if not isinstance(values, Mapping):
        return None
    found: str | None = None
    for name, value in cast("Mapping[str, object]", values).items():
        digits = str(value)
        is_id = name.endswith("_id") and digits.isascii() and digits.isdigit()
        if is_id and len(digits) <= _MAX_DIGITS:
            found = f"{name}:{int(digits)}"
    return found


def find_events(scope: Scope) -> EventSink | None:
    """None before the server has started."""
    services = getattr(scope["app"].state, "services", None)
    return None if services is None else cast("EventSink", services.events)
