"""Signals: what is true for a moment (typing, presence, calls). Not logged, not numbered, may be lost."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import orjson

from app.infra.bus.port import Bus
from app.kernel.ids import SessionId, UserId
from app.kernel.scopes import Scope, ScopeKind

TOPIC = "signals"


class Signal(NamedTuple):
    """A frame and its addressees.

    `users`: their sockets; without them all who follow `scope`. A socket of one chat hears only
    signals that name that chat as their `scope`.
    """

    frame: bytes
    users: frozenset[UserId]
    scope: Scope | None
    except_session: SessionId | None
    except_user: UserId | None


def publish_signal(
    bus: Bus,
    *,
    type: str,  # noqa: A002 - the contract's word
    data: Mapping[str, object],
    users: Collection[UserId] = (),
    scope: Scope | None = None,
    except_session: SessionId | None = None,
    except_user: UserId | None = None,
) -> None:
    """Tell `users`, or without them everyone who follows `scope`; returns at once."""
    head = [
        None if scope is None else [int(scope.kind), scope.id],
        list(users),
        except_session,
        except_user,
    ]
    frame = orjson.dumps({"type": type, "data": data})
    bus.publish(TOPIC, orjson.dumps(head) + b"\n" + frame)


def parse_signal(payload: bytes) -> Signal:
    """What `publish_signal` put on the bus."""
    head, _, frame = payload.partition(b"\n")
    scope, users, except_session, except_user = orjson.loads(head)
    return Signal(
        frame,
        frozenset(users),
        None if scope is None else Scope(ScopeKind(scope[0]), scope[1]),
        except_session,
        except_user,
    )
