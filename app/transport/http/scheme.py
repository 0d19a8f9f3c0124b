"""Whether the client's line is HTTPS, for all that comes behind the edge."""

from collections.abc import Sequence
from typing import Final

from starlette.types import Scope

from app.transport.http.client_address import Network, came_over_https

_KEY: Final = "messenger.is_secure"


def note_scheme(scope: Scope, trusted: Sequence[Network]) -> None:
    """For the edge."""
    scope[_KEY] = came_over_https(scope, trusted)


def is_secure(scope: Scope) -> bool:
    """What the edge found out; without an edge, plain HTTP."""
    return bool(scope.get(_KEY, False))
