"""The numbered truth: every durable change takes the next `seq` of its scope in its own transaction.

The scope's row is locked first and rights are read after it, so that the order of the numbers is
the order of the commits, and a rolled-back or refused change leaves no hole.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

from sqlalchemy import Select, bindparam, insert, select, update

from app.features.updates.frames import render_update
from app.features.updates.models import ScopeRow, UpdateRow
from app.infra.database.key_lists import by_dialect, id_parameters, is_listed
from app.infra.database.tx import Dialect, Tx
from app.kernel.announcements import Announcement
from app.kernel.ids import ChatId, UserId
from app.kernel.scopes import Scope, ScopeKind

_SET_HEAD = (
    update(ScopeRow)
    .where(ScopeRow.kind == bindparam("scope_kind"), ScopeRow.id == bindparam("scope_id"))
    .values(seq=bindparam("new_seq"), removals=bindparam("new_removals"))
)
_INSERT_UPDATES = insert(UpdateRow)


class Head(NamedTuple):
    """Where a scope stands: its newest number, and its removal revision (see `ScopeRow`)."""

    seq: int
    removals: int


class ScopeLog:
    """The locked scopes of one transaction. What is appended is written at the end of the transaction."""

    def __init__(self, tx: Tx, heads: Mapping[Scope, Head]) -> None:
        self._tx = tx
        self._seqs = {scope: head.seq for scope, head in heads.items()}
        self._removals = {scope: head.removals for scope, head in heads.items()}
        self._changed: set[Scope] = set()
        self._rows: list[dict[str, object]] = []
        self._announcements: list[Announcement] = []
        tx.before_commit(self._write)

    def is_locked(self, scope: Scope) -> bool:
        """Whether this transaction holds the scope, so that it may append to it."""
        return scope in self._seqs

    def seq(self, scope: Scope) -> int:
        """The scope's newest number, with what was appended here."""
        return self._seqs[scope]

    def count_removal(self, scope: Scope) -> int:
        """Somebody ceases to follow `scope`, and no update in it will tell.

        Every later announcement of the scope carries the new revision, so that no worker hands one
        out before it knows of the removal. Call it before anything else is appended for it.

        Returns:
            The revision, for the update that tells the person (`append(ended=...)`).
        """
        self._removals[scope] += 1
        self._changed.add(scope)
        return self._removals[scope]

    def append(
        self,
        scope: Scope,
        update_type: str,
        *,
        subject_id: int | None = None,
        data: Mapping[str, object] | None = None,
        content: Mapping[str, object] | None = None,
        joined: Iterable[UserId] = (),
        left: Iterable[UserId] = (),
        ended: tuple[ChatId, int] | None = None,
    ) -> int:
        """Number a change and let it leave after the commit.

        Args:
            scope: must be locked by this transaction.
            update_type: the `type` on the wire; its filler is registered under the same word.
            subject_id: the id of what changed, for the filler.
            data: further references for the filler; stored in the clear, so nothing personal.
            content: the wire `data`, where the caller has it at hand (hot paths); else it is filled
                in from the log after the commit.
            joined: users whose sockets follow the scope from this update on.
            left: users whose sockets see nothing of the scope behind this update.
            ended: the chat that the user was put out of without an update there, and `count_removal`.

        Returns:
            Its `seq`.
        """
        seq = self._seqs[scope] + 1
        self._seqs[scope] = seq
        self._changed.add(scope)
        joined, left = tuple(joined), tuple(left)
        references = dict(data or {})
        if joined or left:
            references["_joined"], references["_left"] = list(joined), list(left)
        if ended:
            references["_ended"] = ended
        self._rows.append(
            {
                "kind": int(scope.kind),
                "scope_id": scope.id,
                "seq": seq,
                "type": update_type,
                "subject_id": subject_id,
                "data": references or None,
                "created_at": self._tx.now,
            }
        )
        frame = None if content is None else render_update(update_type, scope, seq, content)
        self._announcements.append(
            Announcement(scope, seq, frame, joined, left, self._removals[scope], ended)
        )
        return seq

    async def _write(self) -> None:
        if not self._changed:
            return
        if self._rows:
            await self._tx.execute(_INSERT_UPDATES, self._rows)
        changes = [
            {
                "scope_kind": int(scope.kind),
                "scope_id": scope.id,
                "new_seq": self._seqs[scope],
                "new_removals": self._removals[scope],
            }
            for scope in sorted(self._changed)
        ]
        await self._tx.execute(_SET_HEAD, changes)
        for announcement in self._announcements:
            self._tx.announce(announcement)
        self._changed.clear()
        self._rows = []
        self._announcements = []


async def create_scopes(tx: Tx, scopes: Iterable[Scope]) -> None:
    """Begin the numbering of new chats or users at 0."""
    rows = [{"kind": int(scope.kind), "id": scope.id, "seq": 0} for scope in sorted(scopes)]
    if rows:
        await tx.execute(insert(ScopeRow), rows)


async def lock_scopes(tx: Tx, scopes: Iterable[Scope]) -> ScopeLog:
    """Lock scopes to the end of the transaction: chats before users, by id, so that nobody deadlocks.

    Call it once with all scopes, or first for chats and later for users. A scope that does not
    exist is not locked (`is_locked`). Read membership and rights only after it.
    """
    return ScopeLog(tx, await _lock(tx, scopes, skip_locked=False))


async def try_lock_scopes(tx: Tx, scopes: Iterable[Scope]) -> ScopeLog:
    """As `lock_scopes`, but leaves out the scopes that somebody else holds at the moment."""
    return ScopeLog(tx, await _lock(tx, scopes, skip_locked=True))


async def _lock(tx: Tx, scopes: Iterable[Scope], *, skip_locked: bool) -> dict[Scope, Head]:
    return await _read(tx, _TRY_LOCK if skip_locked else _LOCK, scopes)


async def read_seqs(tx: Tx, scopes: Iterable[Scope]) -> dict[Scope, int]:
    """The newest numbers, without a lock; scopes that do not exist are left out."""
    return {scope: head.seq for scope, head in (await read_heads(tx, scopes)).items()}


async def read_heads(tx: Tx, scopes: Iterable[Scope]) -> dict[Scope, Head]:
    """Where the scopes stand, without a lock; those that do not exist are left out."""
    return await _read(tx, _READ, scopes)


async def _read(
    tx: Tx, statements: Mapping[Dialect, Select[int, int, int]], scopes: Iterable[Scope]
) -> dict[Scope, Head]:
    """One statement a kind, chats first: the order of locking."""
    ids: dict[ScopeKind, list[int]] = {}
    for scope in set(scopes):
        ids.setdefault(scope.kind, []).append(scope.id)
    heads: dict[Scope, Head] = {}
    for kind in ScopeKind:
        if kind in ids:
            parameters = {"kind": int(kind), **id_parameters(tx.dialect, ids[kind])}
            for scope_id, seq, removals in await tx.all(statements[tx.dialect], parameters):
                heads[Scope(kind, scope_id)] = Head(seq, removals)
    return heads


def _make_read(dialect: Dialect) -> Select[int, int, int]:
    return (
        select(ScopeRow.id, ScopeRow.seq, ScopeRow.removals)
        .where(ScopeRow.kind == bindparam("kind"), is_listed(dialect, ScopeRow.id))
        .order_by(ScopeRow.id)
    )


def _make_lock(dialect: Dialect, *, skip_locked: bool) -> Select[int, int, int]:
    statement = _make_read(dialect)
    if dialect == "sqlite":
        return statement  # the transaction holds the only write lock
    # NO KEY: rows that refer to this one by a foreign key may still be inserted.
    return statement.with_for_update(key_share=True, skip_locked=skip_locked)


_READ = by_dialect(_make_read)
_LOCK = by_dialect(partial(_make_lock, skip_locked=False))
_TRY_LOCK = by_dialect(partial(_make_lock, skip_locked=True))
