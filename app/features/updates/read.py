"""Reading the log: rows come back as they were written, content as it is true now."""

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from sqlalchemy import and_, func, or_, select

from app.features.updates.models import UpdateRow
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.scopes import Scope, ScopeKind
from app.transport.feature import Content, Feature, LoggedUpdate, UpdateKind

UpdateKinds = Mapping[tuple[ScopeKind, str], UpdateKind]
_RANGES_A_STATEMENT = 100


def collect_update_kinds(features: Iterable[Feature]) -> UpdateKinds:
    """The fillers of all slices by scope kind and type."""
    return {(kind.scope, kind.type): kind for feature in features for kind in feature.updates}


async def read_log(
    tx: Tx, ranges: Mapping[Scope, tuple[int, int]], *, limit: int
) -> list[LoggedUpdate]:
    """The rows with `after < seq <= upto` of each scope, ordered by scope and `seq`.

    Args:
        tx: any connection.
        ranges: scope -> (after, upto).
        limit: rows at most, over all scopes.
    """
    updates: list[LoggedUpdate] = []
    scopes = sorted(ranges)
    for start in range(0, len(scopes), _RANGES_A_STATEMENT):
        if len(updates) >= limit:
            break
        conditions = [
            and_(
                UpdateRow.kind == int(scope.kind),
                UpdateRow.scope_id == scope.id,
                UpdateRow.seq > ranges[scope][0],
                UpdateRow.seq <= ranges[scope][1],
            )
            for scope in scopes[start : start + _RANGES_A_STATEMENT]
        ]
        statement = (
            select(
                UpdateRow.kind,
                UpdateRow.scope_id,
                UpdateRow.seq,
                UpdateRow.type,
                UpdateRow.subject_id,
                UpdateRow.data,
                UpdateRow.created_at,
            )
            .where(or_(*conditions))
            .order_by(UpdateRow.kind, UpdateRow.scope_id, UpdateRow.seq)
            .limit(limit - len(updates))
        )
        updates += [
            LoggedUpdate(
                Scope(ScopeKind(row.kind), row.scope_id),
                row.seq,
                row.type,
                row.subject_id,
                cast("Mapping[str, object]", row.data or {}),
                row.created_at,
            )
            for row in await tx.all(statement)
        ]
    return updates


async def find_oldest(tx: Tx, scopes: Sequence[Scope]) -> dict[Scope, int]:
    """The oldest number that the log still holds, of each scope that has any row."""
    oldest: dict[Scope, int] = {}
    for kind in ScopeKind:
        ids = [scope.id for scope in scopes if scope.kind is kind]
        for start in range(0, len(ids), _RANGES_A_STATEMENT):
            statement = (
                select(UpdateRow.scope_id, func.min(UpdateRow.seq))
                .where(
                    UpdateRow.kind == int(kind),
                    UpdateRow.scope_id.in_(ids[start : start + _RANGES_A_STATEMENT]),
                )
                .group_by(UpdateRow.scope_id)
            )
            for scope_id, seq in await tx.all(statement):
                oldest[Scope(kind, scope_id)] = seq
    return oldest


async def fill_updates(
    tx: Tx, services: Services, kinds: UpdateKinds, updates: Sequence[LoggedUpdate]
) -> list[Content]:
    """The wire `data` of each update, in their order: one call of a filler for each kind."""
    by_kind: dict[tuple[ScopeKind, str], list[int]] = {}
    for position, update in enumerate(updates):
        by_kind.setdefault((update.scope.kind, update.type), []).append(position)
    contents: list[Content] = [{} for _ in updates]
    for key, positions in by_kind.items():
        filled = await kinds[key].fill(tx, services, [updates[position] for position in positions])
        for position, content in zip(positions, filled, strict=True):
            contents[position] = content
    return contents
