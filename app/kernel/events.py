"""Security events: what transport, infra and slices tell to whoever keeps the record."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from app.kernel.ids import SessionId, UserId

Detail = str | int | bool | None


@dataclass(frozen=True, slots=True)
class SecurityEvent:
    """`name` is a stable snake_case word; `details` holds no phone, token, code or text.

    What is about a person goes into `personal` (device name, ...), which is stored as ciphertext
    only and never logged, and so does `subject`: what the event was about, by which a detector
    tells apart whether one thing was tried ten times or ten things once (an id).
    `phone_index` is the subject of what happens before sign-in; what it says is sealed under a key of
    that number, so that it can be forgotten with the account. `address` and `request_id` are filled in
    from the request at hand.
    """

    name: str
    user_id: UserId | None = None
    session_id: SessionId | None = None
    details: Mapping[str, Detail] = field(default_factory=dict[str, Detail])
    personal: Mapping[str, str] = field(default_factory=dict[str, str])
    subject: str | None = None
    phone_index: bytes | None = field(default=None, repr=False)
    address: str | None = None
    request_id: str | None = None


class EventSink(Protocol):
    """Takes events that stand alone: refusals, and whatever no transaction goes with.

    What goes with a change is recorded in the change's transaction instead. Never blocks and never
    raises: a full record refuses no request.
    """

    def record(self, event: SecurityEvent) -> None:
        """Take note of `event`."""
        ...
