"""Reading the log: rows come back as they were written, content as it is true now."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from sqlalchemy import and_, func, or_, select

from app.features.updates.models import UpdateRow
from app.infra.database.errors import is_outage
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.scopes import Scope, ScopeKind
from app.transport.feature import Content, Feature, Filler, LoggedUpdate, UpdateKind

_RANGES_A_STATEMENT = 100
_MAX_REMEMBERED = 10_000
_log = logging.getLogger(__name__)


class UpdateKinds:
    """The fillers of all slices by scope kind and type. Remembers what it has complained of."""

    def __init__(self, kinds: Iterable[UpdateKind]) -> None:
        self._kinds = {(kind.scope, kind.type): kind for kind in kinds}
        self._reported: set[tuple[Scope, int]] = set()

    def filler(self, scope_kind: ScopeKind, update_type: str) -> Filler:
        return self._kinds[scope_kind, update_type].fill

    def report(self, update: LoggedUpdate) -> None:
        """Log, with the exception that is being handled, that a row cannot be filled in: once for each."""
        key = (update.scope, update.seq)
        if key in self._reported:
            return
        if len(self._reported) >= _MAX_REMEMBERED:
            self._reported.clear()
        self._reported.add(key)
        place = {"type": update.type, "scope_kind": update.scope.kind.name, "seq": update.seq}
        _log.exception("update_not_filled", extra={**place, "scope_id": update.scope.id})


def collect_update_kinds(features: Iterable[Feature]) -> UpdateKinds:
    """What all slices say that can be in the log."""
    return UpdateKinds(kind for feature in features for kind in feature.updates)


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
) -> list[Content | None]:
    """The wire `data` of each update, in their order: one call of a filler for each kind.

    None where a filler fails for that row: its neighbours are filled in all the same.
    """
    by_kind: dict[tuple[ScopeKind, str], list[int]] = {}
    for position, update in enumerate(updates):
        by_kind.setdefault((update.scope.kind, update.type), []).append(position)
    contents: list[Content | None] = [None for _ in updates]
    for key, positions in by_kind.items():
        of_kind = [updates[position] for position in positions]
        filled = await _fill(tx, services, kinds, key, of_kind)
        for position, content in zip(positions, filled, strict=True):
            contents[position] = content
    return contents


async def _fill(
    tx: Tx,
    services: Services,
    kinds: UpdateKinds,
    key: tuple[ScopeKind, str],
    updates: Sequence[LoggedUpdate],
) -> Sequence[Content | None]:
    try:
        filled = await kinds.filler(*key)(tx, services, updates)
    except Exception as error:
        if is_outage(error):
            raise
        if len(updates) > 1:
            return [(await _fill(tx, services, kinds, key, [update]))[0] for update in updates]
        kinds.report(updates[0])
        return [None]
    return filled
