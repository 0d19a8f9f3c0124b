"""Courses: what a socket is led through until it is live, without I/O.

A course is a generator. What takes time it yields as a need, and goes on with the answer; all else
(frames into a socket's queue, following, holding, closing) it does at once. So nothing comes between a
decision and its effect, and between two needs everything may have changed. Whoever leads it ends it
when the socket has closed or a need cannot be met; the socket is then closed too.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from app.features.gateway.queries import Following
from app.kernel.ids import ChatId, UserId
from app.kernel.scopes import Scope, ScopeKind

Followings = Mapping[tuple[UserId, ChatId], Following]


@dataclass(frozen=True, slots=True)
class ReadStanding:
    """Answer: the `Standing` of the user, in the one chat or in all."""

    user_id: UserId
    chat_id: ChatId | None


@dataclass(frozen=True, slots=True)
class ReadFollowings:
    """Answer: the `Followings` of the user in those of the scopes that are chats."""

    user_id: UserId
    scopes: tuple[Scope, ...]

    @property
    def pairs(self) -> list[tuple[UserId, ChatId]]:
        chats = [scope for scope in self.scopes if scope.kind is ScopeKind.CHAT]
        return [(self.user_id, ChatId(scope.id)) for scope in chats]


@dataclass(frozen=True, slots=True)
class ReadPages:
    """Answer: the `Pages` of the ranges `(after, upto)`, and behind them, in time, the `Followings`.

    Whoever is in a chat when the rows have been read may see all of them.
    """

    ranges: Mapping[Scope, tuple[int, int]]
    limit: int
    followings: ReadFollowings


@dataclass(frozen=True, slots=True)
class AwaitRoom:
    """Answer: None, once the client has taken most of what it was sent."""


Read = ReadStanding | ReadFollowings | ReadPages
Need = Read | AwaitRoom
Course = Generator[Need, Any, None]
N = TypeVar("N")


def go_on(course: Generator[N, Any, None], answer: object = None) -> N | None:
    """The next need of a course, which begins with no answer; None: it has come to its end."""
    try:
        return course.send(answer)
    except StopIteration:
        return None
