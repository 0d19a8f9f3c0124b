"""What leaves a transaction after its commit, and only then."""

from dataclasses import dataclass

from app.kernel.ids import ChatId, UserId
from app.kernel.scopes import Scope


@dataclass(frozen=True, slots=True)
class Announcement:
    """Update `seq` of `scope` is committed.

    `frame` is the finished JSON frame, the same bytes for every reader, or None: then it is read
    and filled in from the log. `joined` follow the scope from this update on (it included),
    `left` see nothing behind it. `removals` is the scope's removal revision: whoever hands the update
    out must know of so many memberships that ended without an update in the scope. `ended` is such an end:
    the chat that the user of this scope was put out of, and the revision that this has there.
    """

    scope: Scope
    seq: int
    frame: bytes | None = None
    joined: tuple[UserId, ...] = ()
    left: tuple[UserId, ...] = ()
    removals: int = 0
    ended: tuple[ChatId, int] | None = None
