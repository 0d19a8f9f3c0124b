"""Security events: what transport, infra and slices tell to whoever keeps the record."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from app.kernel.ids import SessionId, UserId


@dataclass(frozen=True, slots=True)
class SecurityEvent:
    """`name` is a stable snake_case word; `details` holds no phone, token, code or text."""

    name: str
    user_id: UserId | None = None
    session_id: SessionId | None = None
    details: Mapping[str, str | int | bool | None] = field(
        default_factory=dict[str, str | int | bool | None]
    )


class EventSink(Protocol):
    """Takes security events. Never blocks and never raises: a full record refuses no request."""

    def record(self, event: SecurityEvent) -> None:
        """Take note of `event`."""
        ...
