"""The manifest of a slice: all that the composition root reads of it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.scopes import Scope, ScopeKind
from app.transport.limits import LimitClass

Content = dict[str, object]
Model = type[BaseModel]


@dataclass(frozen=True, slots=True)
class LoggedUpdate:
    """A row of the log: references only, filled in when it is read."""

    scope: Scope
    seq: int
    type: str
    subject_id: int | None
    data: Mapping[str, Any]
    created_at: datetime


Filler = Callable[[Tx, Services, Sequence[LoggedUpdate]], Awaitable[Sequence[Content]]]
"""Gives the wire `data` of each update, in their order, as it is true now, in a constant number of queries."""


@dataclass(frozen=True, slots=True)
class UpdateKind:
    """A durable update: its `type` on the wire, whose scope carries it, and who fills it in."""

    type: str
    scope: ScopeKind
    fill: Filler


@dataclass(frozen=True, slots=True)
class FrameKind:
    """A frame that clients may send: its `type`, the model of its `data`, its handler, and the class of
    limits that it counts in.

    The handler is `async (context: FrameContext, data: model) -> dict | None`; what it returns is
    the `data` of the ack.
    """

    type: str
    model: Model
    handle: Callable[..., Awaitable[Content | None]]
    limit: LimitClass = LimitClass.API


@dataclass(frozen=True, slots=True)
class Job:
    """Work that repeats in the background of every worker; must be safe to run on several at once."""

    name: str
    every: timedelta
    run: Callable[[Services], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Rule:
    """An answer to a question of a lower slice: `kind` is the Protocol that it declares."""

    kind: type[Any]
    rule: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """What a slice adds to the server."""

    name: str
    routers: tuple[APIRouter, ...] = ()
    updates: tuple[UpdateKind, ...] = ()
    frames: tuple[FrameKind, ...] = ()
    jobs: tuple[Job, ...] = ()
    rules: tuple[Rule, ...] = ()
