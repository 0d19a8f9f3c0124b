"""Time: aware UTC only, in milliseconds, from one injected clock."""

from datetime import UTC, datetime, timedelta
from typing import Protocol

import orjson

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Until 2109 a float of seconds is exact to the microsecond; measured, `fromtimestamp` takes a third of the time.
_EXACT_AS_FLOAT = 2**42


class Clock(Protocol):
    """Where the program learns what time it is."""

    def now(self) -> datetime:
        """The present moment: aware, UTC, whole milliseconds."""
        ...


class SystemClock:
    """The clock of the machine."""

    def now(self) -> datetime:
        """As `Clock.now`."""
        now = datetime.now(tz=UTC)  # noqa: TID251 - the one place that may ask the machine
        return now.replace(microsecond=now.microsecond // 1000 * 1000)


def to_milliseconds(moment: datetime) -> int:
    """Milliseconds since 1970-01-01T00:00:00Z."""
    return (moment - EPOCH) // timedelta(milliseconds=1)


def from_milliseconds(milliseconds: int) -> datetime:
    if 0 <= milliseconds < _EXACT_AS_FLOAT:
        return datetime.fromtimestamp(milliseconds / 1000, tz=UTC)
    return EPOCH + timedelta(milliseconds=milliseconds)


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds and `Z`."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    # Measured: a third of the time of `isoformat`. Microseconds are left out where they are 0.
    quoted = orjson.dumps(moment, option=orjson.OPT_UTC_Z)
    if moment.microsecond:
        return f"{quoted[1:24].decode()}Z"
    return f"{quoted[1:20].decode()}.000Z"


def parse_time(text: str) -> datetime:
    """An RFC 3339 time with an offset, cut to milliseconds.

    Raises:
        ValueError: it is not one, or has no offset.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        msg = "a time needs an offset from UTC"
        raise ValueError(msg)
    moment = moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
