"""What a client missed, over HTTP: the same updates, in the same order, as `resume` replays."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.features.gateway.batch import Batch
from app.features.gateway.course import (
    Followings,
    Read,
    ReadFollowings,
    ReadPages,
    ReadStanding,
    go_on,
)
from app.features.gateway.logbook import Pages
from app.features.gateway.queries import Following, Standing
from app.features.gateway.readers import meet
from app.features.gateway.visibility import find_oldest_told, hide_from_newcomer
from app.features.updates.epoch import load_epoch
from app.features.updates.read import UpdateKinds
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.announcements import Announcement
from app.kernel.ids import ChatId, UserId
from app.kernel.scopes import Scope, ScopeKind, chat_scope, parse_wire_scope, user_scope

_CREATED = b'{"type":"chat_created"'


@dataclass(slots=True)
class Found:
    """The answer; `updates` are finished frames."""

    epoch: str
    updates: list[bytes] = field(default_factory=list[bytes])
    resets: dict[str, int] = field(default_factory=dict[str, int])
    state: dict[str, int] = field(default_factory=dict[str, int])
    has_more: bool = False


async def find_difference(
    services: Services,
    kinds: UpdateKinds,
    *,
    user_id: UserId,
    epoch: str,
    state: Mapping[str, int],
    limit: int,
) -> Found:
    """Everything behind `state`, at most `limit` updates; scopes that are new are named in `state`."""

    async def work(tx: Tx) -> Found:
        while True:
            found = Found(await load_epoch(tx))
            course = collect(found, user_id=user_id, epoch=epoch, state=state, limit=limit)
            need = go_on(course)
            while need is not None:
                need = go_on(course, *await meet(tx, services, kinds, Batch(need)))
            # What was read is of that log if it is so still.
            if await load_epoch(tx) == found.epoch:
                return found

    return await services.db.read(work)


def collect(
    found: Found, *, user_id: UserId, epoch: str, state: Mapping[str, int], limit: int
) -> Generator[Read, Any, None]:
    """Complete `found`, which knows the epoch of the log."""
    standing: Standing = yield ReadStanding(user_id, None)
    if epoch != found.epoch:
        _reset_all(found, user_id, standing)
        return
    ranges = _plan(found, user_id, standing, state)
    yield from _read(found, user_id=user_id, ranges=ranges, limit=limit)
    if not found.has_more:
        _name_new(found, standing, state)


def _reset_all(found: Found, user_id: UserId, standing: Standing) -> None:
    """Nothing that the client holds is of this log."""
    seqs = {user_scope(user_id).wire: standing.user_seq}
    seqs |= {chat_scope(it.chat_id).wire: it.seq for it in standing.chats.values()}
    found.resets = dict(seqs)
    found.state = dict(seqs)


def _plan(
    found: Found, user_id: UserId, standing: Standing, state: Mapping[str, int]
) -> dict[Scope, tuple[int, int]]:
    """What to read of the log; scopes that cannot be caught up with are reset."""
    ranges: dict[Scope, tuple[int, int]] = {}
    for wire, after in state.items():
        scope = parse_wire_scope(wire, user_id)
        own = scope == user_scope(user_id)
        following = standing.chats.get(ChatId(scope.id)) if scope and not own else None
        if scope is None or (following is None and not own):
            # Not mine and never heard of are the same.
            found.resets[wire] = 0
            continue
        head = standing.user_seq if following is None else following.seq
        if after > head or (following is not None and after < following.joined_seq):
            found.resets[wire] = found.state[wire] = head
            continue
        found.state[wire] = after
        if after < head:
            ranges[scope] = (after, head)
    return ranges


def _read(
    found: Found, *, user_id: UserId, ranges: Mapping[Scope, tuple[int, int]], limit: int
) -> Generator[Read, Any, None]:
    own = user_scope(user_id)
    # The user's own scope first: it tells of the chats.
    for part in (
        {scope: span for scope, span in ranges.items() if scope == own},
        {scope: span for scope, span in ranges.items() if scope != own},
    ):
        room = limit - len(found.updates)
        if part and room <= 0:
            found.has_more = True
        elif part:
            pages: Pages
            followings: Followings
            pages, followings = yield ReadPages(part, room, ReadFollowings(user_id, tuple(part)))
            found.has_more = found.has_more or pages.is_cut
            for scope, updates in pages.updates.items():
                following = followings.get((user_id, ChatId(scope.id)))
                _add(found, scope, part[scope], updates, following=following)


def _add(
    found: Found,
    scope: Scope,
    span: tuple[int, int],
    updates: list[Announcement],
    *,
    following: Following | None,
) -> None:
    if scope.kind is ScopeKind.CHAT and following is None:
        # The user left it a moment ago.
        found.state.pop(scope.wire, None)
        found.resets[scope.wire] = 0
    elif (
        not updates
        or updates[0].seq != span[0] + 1
        or (following is not None and following.joined_seq > span[0])
        or any(update.frame is None for update in updates)
    ):
        # Pruned: the client lags further behind than the log reaches. Or the user has just come back, or
        # one of the rows cannot be filled in.
        found.resets[scope.wire] = found.state[scope.wire] = span[1]
    else:
        found.updates += [_show(update, following) for update in updates]
        found.state[scope.wire] = updates[-1].seq


def _show(update: Announcement, following: Following | None) -> bytes:
    frame = update.frame or b""
    if following is not None and following.first_visible_id:
        oldest = find_oldest_told(frame)
        if oldest is not None and oldest < following.first_visible_id:
            return hide_from_newcomer(frame, following.first_visible_id)
    return frame


def _name_new(found: Found, standing: Standing, state: Mapping[str, int]) -> None:
    """Chats that the client does not know of.

    Where this answer holds their `chat_created`, the client follows from its number, and the next
    call fetches what came since; else it reads the chat over HTTP.
    """
    told: dict[int, int] = {}
    for frame in found.updates:
        if frame.startswith(_CREATED):
            data = orjson.loads(frame)["data"]
            chat = data.get("chat") or data
            told[chat["id"]] = chat.get("seq", 0)
    for chat_id, following in standing.chats.items():
        wire = chat_scope(chat_id).wire
        if wire in state or wire in found.state:
            continue
        seq = told.get(chat_id)
        if seq is None:
            found.resets[wire] = found.state[wire] = following.seq
        else:
            found.state[wire] = seq
            found.has_more = found.has_more or seq < following.seq
    own = next((wire for wire in found.state if wire == "user"), None)
    if own is None and "user" not in state:
        found.resets["user"] = found.state["user"] = standing.user_seq
