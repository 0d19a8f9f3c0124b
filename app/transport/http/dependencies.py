"""What routes ask for: the services of this server and the facts of this request."""

from typing import Annotated, cast

from fastapi import Depends
from starlette.requests import HTTPConnection

from app.infra.services import Services


async def get_services(connection: HTTPConnection) -> Services:
    """Put there by the composition root before the first request.

    Async, as is every dependency: FastAPI sends others to a thread, which costs more than they do.
    """
    return cast("Services", connection.app.state.services)


ServicesDep = Annotated[Services, Depends(get_services)]
