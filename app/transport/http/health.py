"""Health: `live` says that the process answers, `ready` that everything it needs does."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog
from fastapi import APIRouter
from starlette.responses import Response

from app.kernel.problems import Unavailable
from app.transport.http.answers import ok
from app.transport.http.problems import problem_responses

# Whoever asks is answered within two seconds.
CHECK_SECONDS: Final = 1.5

ReadinessCheck = Callable[[], Awaitable[object]]

log = structlog.stdlib.get_logger("app.health")


class NotReady(Unavailable):
    code = "not_ready"
    title = "The server is not ready"


def health_router(checks: Mapping[str, ReadinessCheck]) -> APIRouter:
    """Routes of `/health`; a check raises if what it names does not work."""
    router = APIRouter(prefix="/health", tags=["Health"])
    looking: asyncio.Future[list[str]] | None = None

    async def get_liveness() -> Response:
        return ok({"status": "ok"})

    async def get_readiness() -> Response:
        nonlocal looking
        # Whoever asks meanwhile gets the same answer: nothing counts these calls, and each look costs a read.
        if looking is None or looking.done():
            looking = asyncio.ensure_future(find_failures(checks))
        failed = await asyncio.shield(looking)
        if failed:
            raise NotReady(retry_after=2, failed=", ".join(failed))
        return ok({"status": "ok"})

    router.add_api_route("/live", get_liveness, summary="Is the process alive?", responses=_STATUS)
    router.add_api_route(
        "/ready",
        get_readiness,
        summary="Can it serve?",
        responses={**_STATUS, **problem_responses(503)},
    )
    return router


async def find_failures(checks: Mapping[str, ReadinessCheck]) -> list[str]:
    """Names of the checks that failed or took longer than `CHECK_SECONDS`; all run at once."""
    results = await asyncio.gather(*(_passes(name, check) for name, check in checks.items()))
    return [name for name, passed in zip(checks, results, strict=True) if not passed]


async def _passes(name: str, check: ReadinessCheck) -> bool:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check()
    except Exception as error:  # noqa: BLE001 - whatever a driver raises, the answer is "not ready"
        log.warning("health_check_failed", check=name, error=type(error).__name__)
        return False
    return True


_STATUS: dict[int | str, dict[str, object]] = {
    200: {
        "description": "OK",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["status"],
                    "properties": {"status": {"type": "string", "const": "ok"}},
                }
            }
        },
    }
}
