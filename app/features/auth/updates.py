"""The content of updates about the second factor."""

from collections.abc import Sequence

from app.infra.database.tx import Tx
from app.infra.services import Services
from app.transport.feature import Content, LoggedUpdate


async def fill_two_step_changed(
    tx: Tx, services: Services, updates: Sequence[LoggedUpdate]
) -> list[Content]:
    """`{"change", "reset_at"}`. `change` is one of `set`, `changed`, `removed`,
    `recovery_codes_made`, `reset_requested` (with the time at which it becomes possible),
    `reset_cancelled`, `reset`.
    """
    return [dict(update.data) for update in updates]
