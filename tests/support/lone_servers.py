"""A server with settings of its own, on either database, for tests that the shared deployments do not suit."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.people import Deployment
from tests.support.postgres import Postgres
from tests.support.servers import Server


@contextmanager
def lone_server(
    request: pytest.FixtureRequest, directory: Path, settings: Mapping[str, str]
) -> Iterator[Deployment]:
    """One process, without Redis; `request.param` names the database, SQLite where it is another word."""
    with ExitStack() as stack:
        environment = dict(settings)
        url: str | None = None
        if request.param == "postgresql":
            cluster: Postgres = request.getfixturevalue("postgres")
            url = cluster.create_database()
            stack.callback(cluster.drop_database, url)
            environment |= {"DATABASE_TYPE": "postgresql", "DATABASE_URL": url}
        server = stack.enter_context(Server(directory, environment))
        details = {"sqlite_file": str(server.var_dir / "messenger.db")}
        yield Deployment(request.param, [server], {"database_url": url} if url else details)
