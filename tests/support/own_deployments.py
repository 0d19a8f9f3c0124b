"""A deployment with settings of its own: SQLite in one process, or PostgreSQL with Redis on two nodes."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support import missing
from tests.support.people import Deployment
from tests.support.postgres import Postgres
from tests.support.redis_server import run_redis
from tests.support.servers import Server


@contextmanager
def own_deployment(
    request: pytest.FixtureRequest, directory: Path, settings: Mapping[str, str]
) -> Iterator[Deployment]:
    """`request.param` names the database: sqlite or postgresql. Three workers in the second case."""
    if request.param == "sqlite":
        with Server(directory, settings) as server:
            yield Deployment(
                "sqlite", [server], {"sqlite_file": str(server.var_dir / "messenger.db")}
            )
        return
    with ExitStack() as stack:
        cluster: Postgres = request.getfixturevalue("postgres")
        database = cluster.create_database()
        stack.callback(cluster.drop_database, database)
        try:
            redis = stack.enter_context(run_redis())
        except missing.Missing as reason:
            missing.skip("Redis", str(reason))
        shared = dict(settings) | {
            "DATABASE_TYPE": "postgresql",
            "DATABASE_URL": database,
            "USE_REDIS": "true",
            "REDIS_URL": redis,
        }
        one = stack.enter_context(Server(directory / "one", shared | {"WORKERS": "2"}, name="one"))
        same = {"VAR_DIR": str(one.var_dir), "LOG_FILE": str(one.log_file)}
        two = stack.enter_context(Server(directory / "two", shared | same, name="two"))
        details = {"database_url": database, "redis_url": redis}
        yield Deployment("postgresql", [one, two], details)
