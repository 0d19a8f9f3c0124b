"""Every route and every client frame, asked by everybody; the answers are those of `expected.csv`.

ASSURANCE: row 26 of the promises; C1, C2, C7, C9 of the security checklist.
"""

import asyncio
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute

from app.bootstrap import build_app
from app.catalog import FEATURES
from app.features.gateway.schemas import OWN_FRAMES
from app.settings import load_settings
from tests.security.matrix.asking import (
    CALLS,
    FRAMES,
    PREPARATIONS,
    PROBES,
    Outcome,
    Question,
    ask,
    prepare,
)
from tests.security.matrix.cast import Cast, Scene, make_cast, make_scene
from tests.security.matrix.table import Row, read_table
from tests.support.people import API, Backend, Json

TABLE = read_table()
# What an answer may be that changed nothing and told nothing.
_REFUSALS = ("4", "reset")
# More would wait for each other at the one writer of SQLite.
_AT_ONCE = 3


# The table and the server name the same doors


def test_every_route_and_every_frame_has_a_row() -> None:
    app = build_app(load_settings(env_file=None))
    doors = {*list_routes(app.routes), *list_frames()}
    assert doors >= {f"{m.upper()} {p}" for p, i in app.openapi()["paths"].items() for m in i}
    rows = {row.operation for row in TABLE}
    assert sorted(doors - rows) == [], "write a row in expected.csv, from the contract"
    assert sorted(rows - doors) == [], "rows of what is not there"


def test_what_concerns_a_chat_has_a_row_for_each_kind_of_chat() -> None:
    kinds: dict[str, set[str]] = {}
    for row in TABLE:
        kinds.setdefault(row.operation, set()).add(row.chat)
    for operation, seen in kinds.items():
        if "{chat_id}" in operation or "{message_id}" in operation:
            # A private chat has no invites, whose code is all that those routes name.
            assert {"private", "group", "channel"} <= seen, operation


def test_no_row_stands_twice_and_no_question_without_a_row() -> None:
    names = [row.name for row in TABLE]
    assert len(names) == len(set(names))
    cases = {(row.operation, row.case) for row in TABLE}
    asked = {*CALLS, *PROBES, *PREPARATIONS, *((f"FRAME {k}", case) for k, case in FRAMES)}
    assert asked <= cases, asked - cases


def list_routes(routes: list[BaseRoute], prefix: str = "") -> Iterator[str]:
    """`METHOD /path` of everything that the running application serves; also what OpenAPI hides."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            context = route.include_context  # type: ignore[attr-defined]
            yield from list_routes(inner.routes, prefix + context.prefix)
        elif isinstance(route, WebSocketRoute):
            yield f"WS {prefix}{route.path}"
        elif isinstance(route, Mount):
            yield f"GET {prefix}{route.path}"
        else:
            assert isinstance(route, Route | APIRoute), route
            methods = set(route.methods or ())
            # Starlette adds it to whatever answers GET; FastAPI only where a route names it.
            methods -= set() if isinstance(route, APIRoute) else {"HEAD"}
            yield from (f"{method} {prefix}{route.path}" for method in methods)


def list_frames() -> set[str]:
    kinds = {kind.type for feature in FEATURES for kind in feature.frames}
    return {f"FRAME {kind}" for kind in kinds | OWN_FRAMES.keys()}


# The server answers what the table says


@dataclass
class Run:
    """One family of rows on one backend, and what was wrong."""

    cast: Cast
    scenes: dict[tuple[str, bool, bool], Scene] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    async def try_row(self, row: Row) -> None:
        """Refusals share a scene, on which they must leave no trace; what succeeds there has its own."""
        refused = [(role, cell) for role, cell in row.roles() if cell.startswith(_REFUSALS)]
        others = [(role, cell) for role, cell in row.roles() if not cell.startswith(_REFUSALS)]
        scene = await self._scene(row, is_own=is_prepared(row))
        before = await self._look(scene) if disturbs(row) else None
        await self._try_cells([self._try_cell(row, scene, *it) for it in refused], row)
        if before is not None and await self._look(scene) != before:
            self.faults.append(f"{row.name}: a refused call changed the chat")
        await self._try_cells([self._try_success(row, *it) for it in others], row)

    async def _try_cells(self, cells: list[Coroutine[Any, Any, None]], row: Row) -> None:
        """A few at once, where each has a scene of its own or changes nothing."""
        is_apart = row.chat and row.chat != "private"
        places = asyncio.Semaphore(_AT_ONCE if is_apart else 1)

        async def in_turn(cell: Coroutine[Any, Any, None]) -> None:
            async with places:
                await cell

        await asyncio.gather(*(in_turn(cell) for cell in cells))

    async def _try_success(self, row: Row, role: str, expected: str) -> None:
        scene = await self._scene(row, is_own=disturbs(row) or is_prepared(row))
        await self._try_cell(row, scene, role, expected)

    async def _try_cell(self, row: Row, scene: Scene, role: str, expected: str) -> None:
        ids = scene.ids_of(role)
        question = Question(cast=self.cast, row=row, role=role, who=self.cast.people[role], ids=ids)
        outcome = await ask(question)
        if outcome.said != expected:
            self.faults.append(f"{row.name}: {role} got {outcome.said}, expected {expected}")
        elif expected.startswith(("404", "4403", "reset", "200 reset")):
            await self._compare_with_never(question, outcome)

    async def _compare_with_never(self, question: Question, outcome: Outcome) -> None:
        """What is not mine answers as what never was."""
        never = Question(
            cast=question.cast,
            row=question.row,
            role=question.role,
            who=question.who,
            ids=question.ids.never(question.row.case),
        )
        twin = await ask(never)
        mine, theirs = (strip(it, q) for it, q in ((outcome, question), (twin, never)))
        if mine != theirs:
            name = f"{question.row.name}: {question.role}"
            self.faults.append(f"{name} can tell what exists:\n  {mine}\n  {theirs}")

    async def _scene(self, row: Row, *, is_own: bool) -> Scene:
        with_own = row.case.startswith("my own") and bool(row.chat)
        with_invites = "{code}" in row.operation and bool(row.chat)
        key = (row.chat, with_own, with_invites)
        # There is one private chat of two people: what one row did to it the next one would see.
        is_own = is_own or row.chat == "private"
        if not is_own and key in self.scenes:
            return self.scenes[key]
        scene = await make_scene(self.cast, row.chat, with_own=with_own, with_invites=with_invites)
        if not is_own:
            self.scenes[key] = scene
        owner = Question(
            cast=self.cast,
            row=row,
            role="owner",
            who=self.cast.owner,
            ids=scene.ids_of("owner"),
        )
        await prepare(owner)
        return scene

    async def _look(self, scene: Scene) -> Json:
        """The chat as its owner sees it, with its `seq`: every change takes one."""
        if scene.chat is None:
            return None
        view = await self.cast.owner.chat(scene.chat)
        return {name: value for name, value in view.items() if name != "peer"}


def strip(outcome: Outcome, question: Question) -> object:
    """The evidence without the scope that the caller has named himself."""
    text = repr(outcome.evidence)
    return text.replace(f"chat:{question.ids.chat_id}", "chat:*")


def disturbs(row: Row) -> bool:
    """Whether a success changes what the next cells need."""
    method, _, path = row.operation.partition(" ")
    harmless = ("GET", "FRAME", "WS")
    places = ("/chats/{", "/messages/{", "/invites/", "/users/contacts/", "/users/blocked/")
    return method not in harmless and path.removeprefix(API).startswith(places)


def is_prepared(row: Row) -> bool:
    return (row.operation, row.case) in PREPARATIONS


def family(row: Row) -> str:
    method, _, path = row.operation.partition(" ")
    if method in {"FRAME", "WS"} or not path.startswith(API):
        return method.lower() if method in {"FRAME", "WS"} else "pages"
    parts = path.removeprefix(API).strip("/").split("/")
    return parts[2] if len(parts) > 2 and parts[2] in {"members", "invites"} else parts[0]


FAMILIES = sorted({family(row) for row in TABLE})


@pytest.mark.anyio
@pytest.mark.parametrize("name", FAMILIES)
async def test_everybody_gets_the_answer_that_is_written_down(backend: Backend, name: str) -> None:
    run = Run(await make_cast(backend))
    for row in TABLE:
        if family(row) == name:
            await run.try_row(row)
    assert not run.faults, f"{len(run.faults)} cells:\n" + "\n".join(run.faults)
