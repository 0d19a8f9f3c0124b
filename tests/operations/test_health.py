"""Health tells the truth: alive while the process runs, ready while the database answers."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.missing import Missing, skip
from tests.support.people import Backend, Deployment
from tests.support.postgres import run_postgres
from tests.support.servers import Server

pytestmark = pytest.mark.anyio


async def test_a_server_whose_database_is_gone_is_alive_but_not_ready(directory: Path) -> None:
    async with AsyncExitStack() as stack:
        cluster = run_postgres()
        try:
            postgres = await asyncio.to_thread(cluster.__enter__)
        except Missing as reason:
            skip("PostgreSQL", str(reason))
            return
        url = await asyncio.to_thread(postgres.create_database)
        server = Server(directory, {"DATABASE_TYPE": "postgresql", "DATABASE_URL": url})
        await asyncio.to_thread(server.start)
        stack.callback(server.kill)
        stranger = Backend(Deployment("postgresql", [server]), stack).stranger()
        await stranger.get("/health/ready", expect=200)
        await asyncio.to_thread(cluster.__exit__, None, None, None)
        answer = await stranger.call("GET", "/health/ready")
        assert answer.status_code == 503
        assert answer.json()["failed"] == "database"
        assert answer.headers["retry-after"]
        await stranger.get("/health/live", expect=200)
