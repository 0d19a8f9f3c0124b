"""Column types that behave alike on PostgreSQL and SQLite."""

from collections.abc import Callable
from datetime import datetime
from typing import cast

import orjson
from sqlalchemy import BigInteger, Dialect, Integer, Text
from sqlalchemy.types import TypeDecorator

from app.kernel.clock import from_milliseconds, to_milliseconds

# SQLite gives rowids that are never reused only to a column declared INTEGER.
BigId = BigInteger().with_variant(Integer(), "sqlite")


class Timestamp(TypeDecorator[datetime]):
    """Milliseconds since 1970 as BIGINT: both databases compare, index and copy it alike."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else to_milliseconds(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return _to_moment(value)

    def result_processor(  # pyright: ignore[reportIncompatibleMethodOverride] - its Protocol names arguments
        self, dialect: Dialect, coltype: object
    ) -> Callable[[int | None], datetime | None]:
        """As `process_result_value`, without a call of SQLAlchemy's around each value."""
        return _to_moment


class Json(TypeDecorator[object]):
    """Small JSON documents as text; nobody searches inside them."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: object, dialect: Dialect) -> str | None:
        return None if value is None else orjson.dumps(value).decode()

    def process_result_value(self, value: str | None, dialect: Dialect) -> object:
        return _load(value)

    def result_processor(  # pyright: ignore[reportIncompatibleMethodOverride] - as above
        self, dialect: Dialect, coltype: object
    ) -> Callable[[str | None], object]:
        """As `Timestamp.result_processor`."""
        return _load


def _to_moment(value: int | None) -> datetime | None:
    return None if value is None else from_milliseconds(value)


def _load(value: str | None) -> object:
    return None if value is None else cast("object", orjson.loads(value))
