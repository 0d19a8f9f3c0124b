"""Limits of requests: the class of a route, who is calling, and the headers of the answer."""

from collections.abc import Callable
from typing import Annotated, Any, Final, Protocol, TypeVar, cast

from fastapi import Depends
from fastapi.dependencies.models import Dependant
from starlette.requests import HTTPConnection, Request

from app.infra.services import Services
from app.kernel.ids import UserId
from app.kernel.problems import Problem
from app.transport.http.client_address import get_client_address
from app.transport.limits import LimitClass, is_by_address, list_draws, require_unspent, take

ANSWER_HEADERS: Final = "messenger.answer_headers"
_MARK: Final = "limit_class"
_FOR_ACCOUNTS: Final = "is_for_accounts"

F = TypeVar("F", bound=Callable[..., Any])


class CallerFinder(Protocol):
    """Says who is calling, before anything of the body is read; answered by who checks tokens."""

    async def find_caller(self, services: Services, connection: HTTPConnection) -> UserId | Problem:
        """The account of a valid token, or what is to be answered where nobody else is served."""
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


def for_accounts(dependency: F) -> F:
    """On the dependency of a route by which it serves nobody but accounts."""
    setattr(dependency, _FOR_ACCOUNTS, True)
    return dependency


def serves_accounts(dependant: Dependant) -> bool:
    """Whether the route of this dependant serves nobody else."""
    return getattr(dependant.call, _FOR_ACCOUNTS, False) or any(
        serves_accounts(part) for part in dependant.dependencies
    )


async def admit(request: Request, limit: LimitClass, *, is_for_accounts: bool) -> None:
    """Draw one call of the caller's. Whoever is not served hears so before a body of theirs is read.

    Raises:
        RateLimited: rate_limited
        Problem: the route serves accounts, and this is none.
        Unavailable: the session cannot be checked at the moment.
    """
    services = cast("Services | None", getattr(request.app.state, "services", None))
    # Routes of an app without services (in unit tests) have nothing to count with.
    if services is None:
        return
    caller: UserId | Problem | None = None
    if is_for_accounts or not is_by_address(limit):
        caller = await services.rules.one(CallerFinder).find_caller(services, request)
    if services.settings.limits.enabled:
        await _draw(services, request, limit, None if isinstance(caller, Problem) else caller)
    if is_for_accounts and isinstance(caller, Problem):
        raise caller


async def _draw(
    services: Services, request: Request, limit: LimitClass, user_id: UserId | None
) -> None:
    address = await get_client_address(request)
    if limit is LimitClass.SENDS and user_id is not None:
        draws = list_draws(services, limit, user_id=user_id)
        require_unspent(services, draws, user_id=user_id)
        return
    # Who sends without having signed in is a caller like any other.
    counted = LimitClass.API if limit is LimitClass.SENDS else limit
    headers = await take(services, counted, user_id=user_id, address=address)
    answer_headers(request).update(headers)


async def count_refusal(request: Request, limit: LimitClass) -> None:
    """A send that was refused before its slice could draw for it is a call all the same.

    Raises:
        RateLimited: rate_limited
    """
    if limit is LimitClass.SENDS and not answer_headers(request):
        await admit(request, LimitClass.API, is_for_accounts=False)


def answer_headers(connection: HTTPConnection) -> dict[str, str]:
    """Headers for the answer, whatever it will be. The edge joins them with those of the answer."""
    return cast("dict[str, str]", connection.scope.setdefault(ANSWER_HEADERS, {}))


async def _get_answer_headers(connection: HTTPConnection) -> dict[str, str]:
    return answer_headers(connection)


AnswerHeadersDep = Annotated[dict[str, str], Depends(_get_answer_headers)]
