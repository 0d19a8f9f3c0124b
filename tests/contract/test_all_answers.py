"""Last of all: what the whole suite saw, held against the document."""

import pytest

from tests.support.people import Deployment


@pytest.fixture
def whole_suite(request: pytest.FixtureRequest) -> None:
    """Only the whole suite provokes every answer."""
    collected = {item.path.parent.name for item in request.session.items}
    wanted = {"auth", "users", "chats", "messages", "gateway", "inbox", "contract"}
    if not wanted <= collected or request.config.option.keyword or request.config.option.markexpr:
        pytest.skip("only when the whole suite runs")


@pytest.mark.usefixtures("whole_suite")
def test_every_documented_answer_was_provoked(deployment: Deployment) -> None:
    unseen = deployment.openapi.unseen()
    assert not unseen, f"{len(unseen)} documented, never seen:\n" + "\n".join(unseen)


def test_every_answer_was_documented(deployment: Deployment) -> None:
    faults = list(deployment.openapi.faults)
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults)
