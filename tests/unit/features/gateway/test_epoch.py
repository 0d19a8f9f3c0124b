"""A new epoch while workers run: no socket is told an old one behind it, and nothing is replayed across it."""

import pytest

from app.features.gateway import runtime
from app.features.gateway.difference import find_difference
from app.features.updates.epoch import renew_epoch
from tests.unit.features.gateway.conftest import Client, Cluster

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself no worker would notice for an hour."""
    monkeypatch.setattr(runtime, "_EPOCH_SECONDS", 3600.0)


async def connect_again(cluster: Cluster, user: int) -> Client:
    """As clients do behind a close with 1012."""
    while True:
        client = await cluster.connect(user)
        if client.seen("hello"):
            return client
        assert client.code == 1012


async def test_no_hello_behind_the_change_names_the_old_epoch(cluster: Cluster) -> None:
    anna, bruno = await cluster.settle(), await cluster.settle()
    old = await cluster.connect(anna)
    new_epoch = await cluster.db.write(renew_epoch)
    for person in (bruno, anna):
        client = await connect_again(cluster, person)
        assert client.epoch == new_epoch
    # The first of them gave it away: who was connected before has to come again.
    await old.expect(lambda: old.code == 1012)


async def test_nothing_is_replayed_to_a_socket_that_was_told_the_old_epoch(
    cluster: Cluster,
) -> None:
    anna, bruno = await cluster.settle(), await cluster.settle()
    chat = await cluster.group(anna, bruno)
    scope = f"chat:{chat}"
    for n in range(3):
        await cluster.say(anna, chat, str(n))
    client = await cluster.connect(bruno)
    state = {scope: client.state[scope] - 2}
    new_epoch = await cluster.db.write(renew_epoch)
    client.say("resume", {"epoch": client.epoch, "state": state})
    await client.expect(lambda: client.code == 1012)
    assert client.seqs(scope) == []
    again = await connect_again(cluster, bruno)
    assert again.epoch == new_epoch
    again.say("resume", {"epoch": client.epoch, "state": state})
    await again.expect(lambda: again.seen("resumed"))
    assert again.seen("scope_reset")[0]["data"] == {"scope": scope, "seq": again.state[scope]}
    assert again.seqs(scope) == []


async def test_the_difference_voids_what_is_of_another_epoch(cluster: Cluster) -> None:
    anna, bruno = await cluster.settle(), await cluster.settle()
    chat = await cluster.group(anna, bruno)
    client = await cluster.connect(bruno)
    new_epoch = await cluster.db.write(renew_epoch)
    found = await find_difference(
        cluster.services[0],
        cluster.gateways[0].kinds,
        user_id=bruno,
        epoch=client.epoch,
        state=client.state,
        limit=10,
    )
    assert found.epoch == new_epoch
    assert found.resets.keys() == {"user", f"chat:{chat}"}
    assert found.updates == []
