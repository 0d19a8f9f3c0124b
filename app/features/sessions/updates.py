"""The content of updates about sessions."""

from collections.abc import Sequence

from app.infra.database.tx import Tx
from app.infra.services import Services
from app.transport.feature import Content, LoggedUpdate


async def fill_sessions_changed(
    tx: Tx, services: Services, updates: Sequence[LoggedUpdate]
) -> list[Content]:
    """`{"opened": [id], "ended": [id]}`: the ids say it all, their devices are listed over HTTP."""
    return [dict(update.data) for update in updates]
