"""/metrics for Prometheus: how many security events of each name there were.

Counted in the database, so that every worker answers the same and a restart loses nothing. Refusals
of a flood are counted when their row is written, within a minute. Other peers than METRICS_ALLOWED,
and everybody who comes through a proxy, are told what they are told of any path that is none.
"""

from collections.abc import Iterator, Sequence

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import Response

from app.features.audit.models import AuditTotalRow
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.problems import NotFound
from app.transport.http.client_address import Network, find_peer
from app.transport.http.dependencies import ServicesDep

# Whatever a proxy adds; a peer that speaks for itself has none of them.
_PROXY_HEADERS = ("x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")
_STANDARD_HEADERS = ("forwarded", "via")


def install_metrics(app: FastAPI, *, allowed: Sequence[Network]) -> None:
    """Serve /metrics to `allowed`; without any there is no such route."""
    if not allowed:
        return

    async def get_metrics(request: Request, services: ServicesDep) -> Response:
        if not _is_allowed(request, allowed):
            raise NotFound
        return Response(await _render(services), media_type=CONTENT_TYPE_LATEST)

    app.add_api_route("/metrics", get_metrics, include_in_schema=False)


def _is_allowed(request: Request, allowed: Sequence[Network]) -> bool:
    if any(name in request.headers for name in (*_PROXY_HEADERS, *_STANDARD_HEADERS)):
        return False
    peer = find_peer(request.scope)
    return peer is not None and any(peer in network for network in allowed)


async def _render(services: Services) -> bytes:
    async def work(tx: Tx) -> Sequence[tuple[str, int]]:
        rows = await tx.all(select(AuditTotalRow.name, AuditTotalRow.total))
        return [(row.name, row.total) for row in rows]

    registry = CollectorRegistry()
    registry.register(_Totals(await services.db.read(work)))
    return generate_latest(registry)


class _Totals(Collector):
    """Totals that were read before, as Prometheus asks for them."""

    def __init__(self, totals: Sequence[tuple[str, int]]) -> None:
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "messenger_security_events", "Security events by name.", labels=["name"]
        )
        for name, total in sorted(self._totals):
            family.add_metric([name], total)
        yield family
