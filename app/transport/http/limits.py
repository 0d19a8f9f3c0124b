"""Limits of requests: the class of a route, who is calling, and the headers of the answer."""

from collections.abc import Callable
from typing import Annotated, Any, Final, Protocol, TypeVar, cast

from fastapi import Depends
from starlette.requests import HTTPConnection, Request

from app.infra.services import Services
from app.kernel.ids import UserId
from app.transport.http.client_address import get_client_address
from app.transport.limits import LimitClass, is_by_address, list_draws, require_unspent, take

ANSWER_HEADERS: Final = "messenger.answer_headers"
_MARK: Final = "limit_class"

F = TypeVar("F", bound=Callable[..., Any])


class CallerFinder(Protocol):
    """Says who is calling, before anything of the body is read; answered by who checks tokens."""

    async def find_caller(self, services: Services, connection: HTTPConnection) -> UserId | None:
        """The account of a valid token; None: nobody, or nobody that we know."""
        ...


def limited_by(limit: LimitClass) -> Callable[[F], F]:
    """Below `@router.get(...)`: the route counts in this class instead of `LimitClass.API`."""

    def mark(endpoint: F) -> F:
        setattr(endpoint, _MARK, limit)
        return endpoint

    return mark


def limit_of(endpoint: Callable[..., object]) -> LimitClass:
    """The class of a route."""
    return getattr(endpoint, _MARK, LimitClass.API)


async def admit(request: Request, limit: LimitClass) -> None:
    """Draw one call of the caller's.

    Raises:
        RateLimited: rate_limited
        Unavailable: the session cannot be checked at the moment.
    """
    services = cast("Services | None", getattr(request.app.state, "services", None))
    # Routes of an app without services (in unit tests) have nothing to count with.
    if services is None or not services.settings.limits.enabled:
        return
    user_id = None
    if not is_by_address(limit):
        user_id = await services.rules.one(CallerFinder).find_caller(services, request)
    address = await get_client_address(request)
    if limit is LimitClass.SENDS and user_id is not None:
        draws = list_draws(services, limit, user_id=user_id)
        require_unspent(services, draws, user_id=user_id)
        return
    # Who sends without having signed in is a caller like any other.
    counted = LimitClass.API if limit is LimitClass.SENDS else limit
    headers = await take(services, counted, user_id=user_id, address=address)
    answer_headers(request).update(headers)


def answer_headers(connection: HTTPConnection) -> dict[str, str]:
    """Headers for the answer, whatever it will be. The edge joins them with those of the answer."""
    return cast("dict[str, str]", connection.scope.setdefault(ANSWER_HEADERS, {}))


async def _get_answer_headers(connection: HTTPConnection) -> dict[str, str]:
    return answer_headers(connection)


AnswerHeadersDep = Annotated[dict[str, str], Depends(_get_answer_headers)]
