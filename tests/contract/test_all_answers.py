"""Last of all: what the whole suite saw, held against the document."""

import pytest

from app.bootstrap import build_app
from app.settings import load_settings
from tests.support.openapi import OpenApi


@pytest.fixture
def whole_suite(request: pytest.FixtureRequest) -> None:
    """Only the whole suite provokes every answer."""
    collected = {item.path.parent.name for item in request.session.items}
    wanted = {"auth", "users", "chats", "messages", "gateway", "inbox", "contract", "security"}
    if not wanted <= collected or request.config.option.keyword or request.config.option.markexpr:
        pytest.skip("only when the whole suite runs")


@pytest.fixture(scope="module")
def openapi() -> OpenApi:
    """The document that every server of the suite has served."""
    return OpenApi(build_app(load_settings(env_file=None)).openapi())


@pytest.mark.usefixtures("whole_suite")
def test_every_documented_answer_was_provoked(openapi: OpenApi) -> None:
    unseen = openapi.unseen()
    assert not unseen, f"{len(unseen)} documented, never seen:\n" + "\n".join(unseen)


def test_every_answer_was_documented(openapi: OpenApi) -> None:
    faults = list(openapi.faults)
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults)
