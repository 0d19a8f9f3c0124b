"""Security events as lines of the log."""

import structlog

from app.kernel.events import SecurityEvent

log = structlog.stdlib.get_logger("app.security")


class LoggedEvents:
    """Writes each event as one structured line."""

    def record(self, event: SecurityEvent) -> None:
        log.info(event.name, user_id=event.user_id, session_id=event.session_id, **event.details)
