"""Renders docs/problems.md from the problems that are declared, so that the page knows every code."""

from collections.abc import Iterator
from inspect import cleandoc

# Importing the composition root imports every slice, and with it every declaration.
import app.bootstrap  # noqa: F401 # pyright: ignore[reportUnusedImport]
from app.kernel.problems import Problem
from app.transport.http.problems import INTERNAL_ERROR_CODE, STATUS

_HEAD = """\
# Problems

What the server refuses, and how it says so: an `application/problem+json` document (RFC 9457) over
HTTP, the same document as the `error` of a WebSocket frame. Clients switch on `code`, which never
changes; titles and details are for people. `status` is what HTTP answers. 422 also carries `errors`,
a list of `{field, message}` that never repeats the value; 429 and 503 carry `Retry-After`.

This page is written by `make docs`.

| code | status | what it says |
| --- | --- | --- |
"""


def render_problem_list() -> str:
    """The whole page; ends with a line break."""
    lines = {(STATUS[problem.kind], problem.code): _sentence(problem) for problem in _list(Problem)}
    lines[500, INTERNAL_ERROR_CODE] = (
        "A fault of the server; `request_id` names it for the operator."
    )
    rows = (
        f"| `{code}` | {status} | {lines[status, code]} |\n"
        for status, code in sorted(lines.keys())
    )
    return _HEAD + "".join(rows)


def _list(root: type[Problem]) -> Iterator[type[Problem]]:
    """Those with a code of their own."""
    for problem in root.__subclasses__():
        if "code" in vars(problem) and problem.__module__.startswith("app."):
            yield problem
        yield from _list(problem)


def _sentence(problem: type[Problem]) -> str:
    documentation = vars(problem).get("__doc__")
    first_paragraph = cleandoc(documentation or "").split("\n\n")[0].replace("\n", " ")
    title = f"{problem.title.rstrip('.')}."
    return f"{title} {first_paragraph}".strip()
