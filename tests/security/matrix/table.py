"""The expected answers, as a person wrote them down from the contract; `expected.csv` is the table.

Columns after `case` are roles, cells are answers:

- a status, and after it the problem's `code` where it is not the usual one: 403 alone is
  `not_allowed`; every 404 must be, byte for byte, the answer to an id that never was;
- `yes` or `no` behind a status: whether what the case names is in the answer, `reset` whether the
  update log disowns the scope, as one that does not exist;
- of sockets and frames `open`, `ack`, `resumed`, `reset`, a close code, or a problem as above;
- `-` where the role does not exist in such a chat.

The roles, towards one chat: `nobody` is not signed in; `stranger` never was in the chat; `blocked`
is a plain member, or the other one of a private chat, whom the owner has blocked; `ex_member` was
put out; `banned`; `restricted` may do nothing but read; `member`; `admin` has every right but the
one to promote; `owner`. In rows without a chat they are eight people whom nothing distinguishes
but what the case says.
"""

import csv
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).with_name("expected.csv")
ROLES = (
    "nobody",
    "stranger",
    "blocked",
    "ex_member",
    "banned",
    "restricted",
    "member",
    "admin",
    "owner",
)
NO_SUCH_ROLE = "-"


class Row(NamedTuple):
    """One operation on one kind of chat (empty: on none), in one case; role -> expected answer."""

    operation: str
    chat: str
    case: str
    cells: dict[str, str]

    @property
    def name(self) -> str:
        return " | ".join(part for part in self[:3] if part)

    def roles(self) -> list[tuple[str, str]]:
        """(role, expected) of those that exist."""
        return [(role, cell) for role, cell in self.cells.items() if cell != NO_SUCH_ROLE]


def read_table(file: Path = FILE) -> list[Row]:
    with file.open(newline="") as lines:
        head, *rows = [[cell.strip() for cell in line] for line in csv.reader(lines)]
    assert head == ["operation", "chat", "case", *ROLES], head
    assert all(len(row) == len(head) for row in rows), [r for r in rows if len(r) != len(head)]
    return [Row(*row[:3], dict(zip(ROLES, row[3:], strict=True))) for row in rows]
