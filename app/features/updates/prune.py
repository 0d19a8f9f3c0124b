"""Forgetting old updates: from the oldest on, in small transactions, and never out of the middle.

The rows of a scope go up to the first one that is young enough to be kept, so what the log holds is
without a hole even where clocks were wrong. A pass looks at the oldest row of every scope by the
primary key: no index on the time has to be kept up by the sends. It needs no lock of a scope, for
numbers are only added at the other end.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import takewhile
from typing import cast

from sqlalchemy import bindparam, delete, select

from app.features.updates.models import ScopeRow, UpdateRow
from app.infra.database.database import LONG_SECONDS, Database
from app.infra.database.turns import take_turn
from app.infra.database.tx import Tx
from app.kernel.scopes import Scope, ScopeKind

PASS_EVERY = timedelta(hours=6)
_BEGAN_AT = "updates_pruned_at"
_SCOPES_A_READ = 500
_SCOPES_A_WRITE = 10
_ROWS_A_SCOPE = 200

_OLDEST = (
    select(UpdateRow.created_at)
    .where(UpdateRow.kind == ScopeRow.kind, UpdateRow.scope_id == ScopeRow.id)
    .order_by(UpdateRow.seq)
    .limit(1)
    .scalar_subquery()
)
_SCOPES = (
    select(ScopeRow.id, _OLDEST.label("oldest"))
    .where(ScopeRow.kind == bindparam("of_kind"), ScopeRow.id > bindparam("after_id"))
    .order_by(ScopeRow.id)
    .limit(_SCOPES_A_READ)
)
_ROWS = (
    select(UpdateRow.seq, UpdateRow.created_at)
    .where(UpdateRow.kind == bindparam("of_kind"), UpdateRow.scope_id == bindparam("of_id"))
    .order_by(UpdateRow.seq)
    .limit(_ROWS_A_SCOPE)
)
_DELETE = delete(UpdateRow).where(
    UpdateRow.kind == bindparam("of_kind"),
    UpdateRow.scope_id == bindparam("of_id"),
    UpdateRow.seq <= bindparam("upto"),
)


async def prune_updates(db: Database, *, before: datetime) -> int:
    """One pass over all scopes: forget what is older than `before`.

    Passes of several workers may overlap; each row goes once.

    Returns:
        How many updates were forgotten.
    """
    forgotten = 0
    for kind in ScopeKind:
        after_id: int | None = 0
        while after_id is not None:
            expired, after_id = await _find_expired(db, kind, after_id, before)
            for start in range(0, len(expired), _SCOPES_A_WRITE):
                waiting = expired[start : start + _SCOPES_A_WRITE]
                while waiting:
                    count, waiting = await _forget(db, waiting, before)
                    forgotten += count
    return forgotten


async def claim_pass(db: Database) -> bool:
    """Whether it is time for a pass, and no other worker took it."""
    return await db.write(
        lambda tx: take_turn(tx, _BEGAN_AT, every=PASS_EVERY), timeout_seconds=LONG_SECONDS
    )


async def _find_expired(
    db: Database, kind: ScopeKind, after_id: int, before: datetime
) -> tuple[Sequence[Scope], int | None]:
    """Scopes of the next page whose oldest row is too old, and where the page ends; None: it is the last."""
    parameters = {"of_kind": int(kind), "after_id": after_id}
    rows = await db.read(lambda tx: tx.all(_SCOPES, parameters), timeout_seconds=LONG_SECONDS)
    # A scope without rows has no oldest one, which the types of SQLAlchemy do not know.
    oldest = {scope_id: cast("datetime | None", created_at) for scope_id, created_at in rows}
    expired = [Scope(kind, scope_id) for scope_id, at in oldest.items() if at and at < before]
    return expired, rows[-1][0] if len(rows) == _SCOPES_A_READ else None


async def _forget(
    db: Database, scopes: Sequence[Scope], before: datetime
) -> tuple[int, list[Scope]]:
    """Delete the oldest rows of a few scopes: how many, and of which scopes there may be more."""

    async def work(tx: Tx) -> tuple[int, list[Scope]]:
        count, unfinished = 0, list[Scope]()
        for scope in scopes:
            of_scope = {"of_kind": int(scope.kind), "of_id": scope.id}
            rows = await tx.all(_ROWS, of_scope)
            old = list(takewhile(lambda row: row.created_at < before, rows))
            if old:
                count += await tx.execute(_DELETE, {**of_scope, "upto": old[-1].seq})
            if len(old) == _ROWS_A_SCOPE:
                unfinished.append(scope)
        return count, unfinished

    return await db.write(work, timeout_seconds=LONG_SECONDS)
