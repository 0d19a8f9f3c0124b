"""The log as frames: rows are read, filled in as they are true now, and rendered once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from app.features.updates.frames import render_update
from app.features.updates.read import UpdateKinds, fill_updates, read_log
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.announcements import Announcement
from app.kernel.ids import ChatId, UserId
from app.kernel.scopes import Scope
from app.transport.feature import Content, LoggedUpdate


@dataclass(frozen=True, slots=True)
class Pages:
    """`updates` of each scope by number; `is_cut`: the limit was reached, scopes behind it are absent.

    An update without a frame cannot be filled in: whoever needs it reads its scope again.
    """

    updates: dict[Scope, list[Announcement]]
    is_cut: bool


async def read_pages(
    tx: Tx,
    services: Services,
    kinds: UpdateKinds,
    ranges: Mapping[Scope, tuple[int, int]],
    *,
    limit: int,
) -> Pages:
    """Updates with `after < seq <= upto` of each scope.

    A scope that the limit did not reach is absent; one whose rows are pruned has an empty list.
    """
    rows = await read_log(tx, ranges, limit=limit)
    return make_pages(ranges, rows, await fill_updates(tx, services, kinds, rows), limit=limit)


def make_pages(
    ranges: Mapping[Scope, tuple[int, int]],
    rows: Sequence[LoggedUpdate],
    contents: Sequence[Content | None],
    *,
    limit: int,
) -> Pages:
    """The pages of these rows, at most `limit`, ordered by scope and number."""
    is_cut = len(rows) >= limit
    end = rows[-1].scope if is_cut else None
    updates: dict[Scope, list[Announcement]] = {
        scope: [] for scope in sorted(ranges) if end is None or scope <= end
    }
    for row, content in zip(rows, contents, strict=True):
        frame = None if content is None else render_update(row.type, row.scope, row.seq, content)
        updates[row.scope].append(
            Announcement(
                row.scope,
                row.seq,
                frame,
                _user_ids(row, "_joined"),
                _user_ids(row, "_left"),
                ended=_ended(row),
            )
        )
    return Pages(updates, is_cut)


def _ended(row: LoggedUpdate) -> tuple[ChatId, int] | None:
    ended = cast("list[int] | None", row.data.get("_ended"))
    return None if ended is None else (ChatId(ended[0]), ended[1])


def _user_ids(row: LoggedUpdate, name: str) -> tuple[UserId, ...]:
    return tuple(cast("list[UserId]", row.data.get(name, ())))
