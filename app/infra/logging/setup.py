"""Logging for the whole process, libraries included: one file of JSON lines, readable lines on the console.

Libraries never log below INFO here: at DEBUG, uvicorn and websockets write paths and whole frames,
aiosqlite writes the values of every statement.
"""

import logging
import sys
from collections.abc import Callable
from typing import Any, Final

import structlog

from app.infra.logging.formatters import ConsoleFormatter, JsonFormatter, is_terminal
from app.infra.logging.grouped import GroupedHandler
from app.infra.logging.log_file import open_log_file
from app.infra.logging.redaction import redact_text
from app.kernel.addresses import AddressForm, shorten_address
from app.settings import LogSettings

# They tell nothing at INFO, or too much: httpx writes the address it calls, parameters included.
_QUIET: Final = (
    *(
        "aiosqlite",
        "asyncio",
        "asyncpg",
        "concurrent_log_handler",
        "httpcore",
        "httpx",
        "multipart",
    ),
    *("python_multipart", "redis", "sqlalchemy", "urllib3", "watchfiles", "websockets"),
)
# They repeat at INFO what the line before them said: each socket's opening, each start's dialect.
_REPEATED: Final = {
    "uvicorn.error": {"connection open", "connection closed"},
    "alembic.runtime.migration": {"Context impl %s.", "Will assume %s DDL."},
}
_UVICORN: Final = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")


def configure_logging(settings: LogSettings) -> Callable[[], None]:
    """Take over every logger of this process; call again after anyone else configured logging.

    Returns what makes both write each line at once, for the end of the process: uvicorn ends it by
    the signal that stopped it, and lines that still waited would be lost.
    """
    file = open_log_file(settings.file, max_bytes=settings.max_bytes, backups=settings.backups)
    file.setFormatter(JsonFormatter())
    console = GroupedHandler(_write_to_console, finish=sys.stderr.flush)
    console.setFormatter(ConsoleFormatter(colored=is_terminal()))

    root = logging.getLogger()
    for handler in list(root.handlers):
        # Only what we or a launcher put there: others (a test's) may stay and see clean records.
        if type(handler) in {GroupedHandler, logging.StreamHandler}:
            root.removeHandler(handler)
            handler.close()
    root.addHandler(file)
    root.addHandler(console)
    _set_levels(settings.level)
    _shorten_addresses(settings.addresses)
    _redact_at_the_source()
    _skip_unused_facts()
    _configure_structlog()

    def write_at_once() -> None:
        file.write_at_once()
        console.write_at_once()

    return write_at_once


def _write_to_console(text: str) -> None:
    """A terminal that has gone away takes nothing with it."""
    try:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        return


def _skip_unused_facts() -> None:
    """No line of ours names them, and finding them costs more than writing it ("Optimization" in logging's docs)."""
    logging.logThreads = False
    logging.logProcesses = False
    logging.logMultiprocessing = False
    logging._srcfile = None  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]  # noqa: SLF001 - the documented switch


def _set_levels(level: str) -> None:
    own = logging.getLevelNamesMapping()[level]
    logging.getLogger().setLevel(max(own, logging.INFO))
    logging.getLogger("app").setLevel(own)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(own, logging.WARNING))
    for name in _UVICORN:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(max(own, logging.INFO))
        logger.propagate = True
    # Our own line per request says more; without a handler uvicorn does not even render its own.
    logging.getLogger("uvicorn.access").propagate = False
    for name in _REPEATED:
        logging.getLogger(name).addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return record.msg not in _REPEATED[record.name]


class _SocketLines(logging.Filter):
    """uvicorn's own line of each socket begins with its peer, `address:port`."""

    def __init__(self, form: AddressForm) -> None:
        super().__init__()
        self._form: AddressForm = form

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple) and str(record.msg).startswith('%s - "WebSocket'):
            peer = str(record.args[0])
            shown = shorten_address(peer.rpartition(":")[0], self._form)
            record.args = (peer if self._form == "full" else shown or "-", *record.args[1:])
        return True


def _shorten_addresses(form: AddressForm) -> None:
    logger = logging.getLogger("uvicorn.error")
    for earlier in [it for it in logger.filters if isinstance(it, _SocketLines)]:
        logger.removeFilter(earlier)
    logger.addFilter(_SocketLines(form))


def _redact_at_the_source() -> None:
    """Records of every logger are clean before any handler sees them, whoever attached it."""
    make = logging.getLogRecordFactory()
    if getattr(make, "redacts", False):
        return

    def make_redacted(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        if isinstance(record.msg, str):
            record.msg = redact_text(record.msg)
        if isinstance(record.args, tuple):
            record.args = tuple(_redact_argument(value) for value in record.args)
        return record

    make_redacted.redacts = True  # pyright: ignore[reportFunctionMemberAccess] - a mark on our own function
    logging.setLogRecordFactory(make_redacted)


def _redact_argument(value: object) -> object:
    """Numbers stay what they are, for `%d`; anything else becomes clean text."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = str(value)
    clean = redact_text(text)
    return value if isinstance(value, str) and clean == value else clean


def _to_record(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> tuple[tuple[object], dict[str, object]]:
    """A structlog event as a record whose message is the event itself; the formatters know."""
    exc_info = event.pop("exc_info", None)
    return (dict(event),), {"exc_info": exc_info} if exc_info else {}


# One list for the life of the process: loggers that were bound before keep following it.
_PROCESSORS: Final[list[structlog.typing.Processor]] = [
    structlog.stdlib.filter_by_level,
    _to_record,
]


def _configure_structlog() -> None:
    structlog.configure(
        processors=_PROCESSORS,
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
