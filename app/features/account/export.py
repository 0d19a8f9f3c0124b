"""Everything the server holds on a person, as one JSON document that is written while it is read.

Each page is read in a transaction of its own, in the order of keys that never change: what was there
at the beginning and still is at the end is in it exactly once; what came, changed or went meanwhile may
stand in it as it was before or after. So nobody's writes wait, and memory stays constant.
"""

from collections.abc import AsyncIterator
from datetime import timedelta

import orjson
import structlog
from sqlalchemy import func, select

from app.features.account.errors import ExportsExhausted
from app.features.audit.models import AuditEventRow
from app.features.audit.record import record
from app.features.sessions.authenticate import CurrentSession
from app.features.sessions.fresh import require_fresh
from app.features.sessions.revocations import RevocationList
from app.features.updates.log import lock_scopes
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.clock import format_time
from app.kernel.events import SecurityEvent
from app.kernel.ids import UserId
from app.kernel.problems import Problem
from app.kernel.scopes import user_scope
from app.transport.personal_data import PersonalData, Section

FORMAT = 1
EXPORTS_A_DAY = 3

_EVENT = "account_exported"
_DAY = timedelta(days=1)
_CHUNK_BYTES = 32_768

log = structlog.stdlib.get_logger("app.account")


async def begin_export(services: Services, *, caller: CurrentSession) -> AsyncIterator[bytes]:
    """Count and record it; what comes of it is the document, piece by piece.

    Raises:
        fresh_authentication_required, token_invalid
        exports_exhausted: there were as many within a day as may be.
    """

    async def work(tx: Tx) -> None:
        await lock_scopes(tx, [user_scope(caller.user_id)])
        minutes = services.settings.two_step.fresh_minutes
        await require_fresh(tx, session_id=caller.session_id, minutes=minutes)
        await _require_room(tx, caller.user_id)
        record(tx, SecurityEvent(_EVENT, caller.user_id, caller.session_id))

    await services.db.write(work)
    return _end_quietly(_gather(_write(services, caller)), caller)


async def _require_room(tx: Tx, user_id: UserId) -> None:
    """The record itself is what counts."""
    count, oldest = await tx.first(
        select(func.count(), func.min(AuditEventRow.at)).where(
            AuditEventRow.user_id == user_id,
            AuditEventRow.name == _EVENT,
            AuditEventRow.at > tx.now - _DAY,
        )
    ) or (0, None)
    if count >= EXPORTS_A_DAY and oldest is not None:
        seconds = int((oldest + _DAY - tx.now).total_seconds())
        raise ExportsExhausted(retry_after=max(1, seconds))


async def _write(services: Services, caller: CurrentSession) -> AsyncIterator[bytes]:
    now = format_time(services.clock.now())
    yield orjson.dumps({"format": FORMAT, "exported_at": now})[:-1]
    revocations = services.rules.one(RevocationList)
    for rule in services.rules.all(PersonalData):
        for section in rule.export(services, caller.user_id):
            yield b"," + orjson.dumps(section.name) + b":"
            async for piece in _write_section(section):
                if revocations.is_denied(caller.session_id):
                    return
                yield piece
    yield b"}"


async def _write_section(section: Section) -> AsyncIterator[bytes]:
    if not section.is_list:
        async for item in section.items:
            yield orjson.dumps(item)
        return
    separator = b"["
    async for item in section.items:
        yield separator + orjson.dumps(item)
        separator = b","
    yield b"[]" if separator == b"[" else b"]"


async def _gather(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """In chunks worth a system call."""
    chunk = bytearray()
    async for piece in pieces:
        chunk += piece
        if len(chunk) >= _CHUNK_BYTES:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk)


async def _end_quietly(
    chunks: AsyncIterator[bytes], caller: CurrentSession
) -> AsyncIterator[bytes]:
    """The status has left: a document that cannot be finished lacks its end, and does not parse."""
    try:
        async for chunk in chunks:
            yield chunk
    except Problem as problem:
        log.warning("export_cut_off", user_id=caller.user_id, code=problem.code)
