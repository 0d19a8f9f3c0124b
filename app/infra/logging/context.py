"""What every log line of one request or socket carries: its id, and the user once known.

The record of security events also takes the client's address from here; no log line does.
"""

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class LogContext:
    """Mutable on purpose: a task started by the request fills in the user for all of its lines."""

    request_id: str
    address: str | None = None
    user_id: int | None = None
    session_id: int | None = None


_current: ContextVar[LogContext | None] = ContextVar("log_context", default=None)


def begin_log_context(request_id: str, *, address: str | None = None) -> LogContext:
    """A fresh context for this task and those it starts; replaces the one it may have inherited."""
    context = LogContext(request_id, address)
    _current.set(context)
    return context


def current_log_context() -> LogContext | None:
    return _current.get()


def bind_user(user_id: int, *, session_id: int | None = None) -> None:
    """Name the user in all further lines of the current request or socket."""
    context = _current.get()
    if context is not None:
        context.user_id = user_id
        context.session_id = session_id
