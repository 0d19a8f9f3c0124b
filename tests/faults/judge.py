"""The database as the judge: its rows, read past every proxy that the servers go through."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from app.kernel.scopes import ScopeKind
from tests.faults.checkers import Count, LogRow, MessageRow

_LOG = """
    SELECT u.kind, u.scope_id, u.seq, u.type, u.subject_id, u.data
    FROM scopes s
    LEFT JOIN unnest($1::int[], $2::bigint[], $3::bigint[]) AS base (kind, id, seq)
        ON base.kind = s.kind AND base.id = s.id
    JOIN updates u
        ON u.kind = s.kind AND u.scope_id = s.id AND u.seq > coalesce(base.seq, 0)
    ORDER BY u.kind, u.scope_id, u.seq
"""
_MESSAGES = """
    SELECT id, chat_id, seq, sender_id, type, client_message_id, deleted_at IS NOT NULL AS is_deleted
    FROM messages WHERE id > $1 ORDER BY id
"""
_NEWEST = """
    SELECT newest.* FROM unnest($1::bigint[]) AS chat (id), LATERAL (
        SELECT id, chat_id, seq, sender_id, type, client_message_id, FALSE AS is_deleted
        FROM messages WHERE chat_id = chat.id AND deleted_at IS NULL ORDER BY id DESC LIMIT $2
    ) AS newest
"""
# Counted the plain way, on purpose unlike the server's own statements.
_COUNTS = """
    SELECT p.user_id, p.chat_id, p.last_read_message_id AS mark,
        (SELECT count(*) FROM chat_participants other
         WHERE other.chat_id = p.chat_id
           AND other.role IN ('owner', 'admin', 'member', 'restricted')) AS members,
        (SELECT count(*) FROM messages m
         WHERE m.chat_id = p.chat_id AND m.id > p.last_read_message_id
           AND m.sender_id <> p.user_id AND m.type <> 'service' AND m.deleted_at IS NULL
           AND NOT EXISTS (SELECT 1 FROM hidden_messages h
                           WHERE h.user_id = p.user_id AND h.message_id = m.id)) AS unread,
        (SELECT count(*) FROM message_mentions w JOIN messages m ON m.id = w.message_id
         WHERE w.chat_id = p.chat_id AND w.user_id = p.user_id
           AND m.id > p.last_read_message_id AND m.deleted_at IS NULL) AS mentions
    FROM chat_participants p
    WHERE p.user_id = ANY($1::bigint[]) AND p.role IN ('owner', 'admin', 'member', 'restricted')
"""
_IDLE = """
    SELECT query FROM pg_stat_activity
    WHERE datname = current_database() AND state LIKE 'idle in transaction%'
      AND state_change < now() - interval '1 second'
"""


@dataclass(slots=True)
class Mark:
    """Where the log and the messages stood at a quiet moment."""

    heads: dict[str, int] = field(default_factory=dict[str, int])
    message_id: int = 0


class Judge:
    """Each question takes a connection of its own: PostgreSQL may have been restarted in between."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def heads(self) -> dict[str, int]:
        """Scope -> the number of its newest update."""
        rows = await self._ask("SELECT kind, id, seq FROM scopes")
        return {_name(row["kind"], row["id"]): row["seq"] for row in rows}

    async def mark(self) -> Mark:
        [newest] = await self._ask("SELECT coalesce(max(id), 0) AS id FROM messages")
        return Mark(await self.heads(), newest["id"])

    async def log(self, base: Mark) -> list[LogRow]:
        """Every update behind `base`, by scope and number."""
        places = [(_parse(scope), seq) for scope, seq in base.heads.items()]
        rows = await self._ask(
            _LOG,
            [int(kind) for (kind, _), _ in places],
            [scope_id for (_, scope_id), _ in places],
            [seq for _, seq in places],
        )
        return [
            LogRow(
                _name(row["kind"], row["scope_id"]),
                row["seq"],
                row["type"],
                row["subject_id"],
                _object(row["data"]),
            )
            for row in rows
        ]

    async def messages(self, base: Mark) -> list[MessageRow]:
        """Every message stored since `base`."""
        return [MessageRow(**row) for row in await self._ask(_MESSAGES, base.message_id)]

    async def newest(self, chat_ids: Sequence[int], limit: int) -> list[MessageRow]:
        """The newest messages of each chat that were not deleted."""
        return [MessageRow(**row) for row in await self._ask(_NEWEST, chat_ids, limit)]

    async def counts(self, user_ids: Sequence[int]) -> dict[tuple[int, int], Count]:
        """(user, chat) -> recount, for every chat that these users are in."""
        rows = await self._ask(_COUNTS, user_ids)
        return {
            (row["user_id"], row["chat_id"]): Count(
                row["unread"], row["mentions"], row["members"], row["mark"]
            )
            for row in rows
        }

    async def idle_transactions(self) -> list[str]:
        """What sessions did last that hold a transaction open and do nothing."""
        return [row["query"] for row in await self._ask(_IDLE)]

    async def execute(self, statement: str) -> None:
        await self._ask(statement)

    async def _ask(self, statement: str, *arguments: Any) -> list[dict[str, Any]]:
        connection = await asyncpg.connect(self._url, timeout=10)
        try:
            return [dict(row) for row in await connection.fetch(statement, *arguments)]
        finally:
            await connection.close()


def _name(kind: int, scope_id: int) -> str:
    return f"{'chat' if kind == ScopeKind.CHAT else 'user'}:{scope_id}"


def _parse(scope: str) -> tuple[ScopeKind, int]:
    kind, _, scope_id = scope.partition(":")
    return ScopeKind.CHAT if kind == "chat" else ScopeKind.USER, int(scope_id)


def _object(value: Any) -> dict[str, Any]:
    found = json.loads(value) if isinstance(value, str) else value
    return found or {}
