"""What operators do at the command line is in the record: who, what, and to whom."""

import getpass
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import BACKENDS
from tests.security.operator import Operator
from tests.support.audit import read_events, run_admin, wait_for_log
from tests.support.lone_servers import lone_server
from tests.support.people import Backend, Deployment

pytestmark = pytest.mark.anyio

KEYS = {name: secrets.token_urlsafe(40) for name in ("SECRET_KEY", "MASTER_KEY", "INDEX_KEY")}
NEW_KEYS = {name: secrets.token_urlsafe(40) for name in ("MASTER_KEY_NEW", "INDEX_KEY_NEW")}


@pytest.fixture(params=BACKENDS)
def deployment(request: pytest.FixtureRequest, directory: Path) -> Iterator[Deployment]:
    # The servers know of both keys, as before a change of them.
    with lone_server(request, directory, KEYS | NEW_KEYS) as made:
        yield made


async def test_every_act_of_an_operator_is_recorded(backend: Backend, directory: Path) -> None:
    anna, bruno = await backend.people(2)
    deployment = backend.deployment
    operator = Operator(deployment.nodes[0])
    file = directory / "keys"
    await operator.run("backup", str(file))
    await operator.run("renew", "--owner", f"user:{anna.id}", "--wait", "0")
    await operator.run("convert", "--wait", "0")
    await operator.run("rebuild-index")
    await operator.run("rotate", "--wait", "0")
    now = {"MASTER_KEY": NEW_KEYS["MASTER_KEY_NEW"], "MASTER_KEY_NEW": ""}
    now |= {"INDEX_KEY": NEW_KEYS["INDEX_KEY_NEW"], "INDEX_KEY_NEW": ""}
    deployment.nodes[0].environment.update(now)
    for words in (
        ["sessions", "end", "--user", str(bruno.id)],
        ["new-epoch"],
        ["audit", "tail", "--show-personal"],
        ["audit", "search", "--name", "signed_in", "--show-personal"],
    ):
        done = await run_admin(deployment, *words)
        assert done.returncode == 0, done.stderr
    await wait_for_log(deployment, "admin_act", act="audit_search_personal")
    events = await read_events(deployment, "--name", "admin_act")
    acts = [(event["details"]["act"], event["details"].get("target")) for event in events]
    assert acts[:9] == [
        ("keys_backup", None),
        ("keys_renew", f"user:{anna.id}"),
        ("keys_convert", None),
        ("keys_rebuild_index", None),
        ("keys_rotate", None),
        ("sessions_ended", f"user:{bruno.id}"),
        ("epoch_renewed", None),
        ("audit_tail_personal", None),
        ("audit_search_personal", None),
    ]
    assert {event["details"]["operator"] for event in events} == {getpass.getuser()}


async def test_a_backup_of_keys_without_the_master_key_is_told_by_the_log(
    backend: Backend, directory: Path
) -> None:
    await backend.sign_up()
    operator = Operator(backend.deployment.nodes[0])
    said = await operator.run("backup", str(directory / "keys"), settings={"MASTER_KEY": ""})
    assert "Not in the record, but in the log" in said
    await wait_for_log(backend.deployment, "admin_act", act="keys_backup")
    events = await read_events(backend.deployment, "--name", "admin_act")
    assert "keys_backup" not in {event["details"]["act"] for event in events}


@pytest.mark.parametrize("name", ["MASTER_KEY", "INDEX_KEY"])
async def test_the_present_key_is_no_new_one_wherever_it_is_kept(
    backend: Backend, directory: Path, name: str
) -> None:
    file = directory / "key"
    file.write_text(KEYS[name])
    settings = {name: "", f"{name}_FILE": str(file), f"{name}_NEW": KEYS[name]}
    command = {"MASTER_KEY": "rotate", "INDEX_KEY": "rebuild-index"}[name]
    operator = Operator(backend.deployment.nodes[0])
    status, said = await operator.try_to(command, settings=settings)
    assert status == 1
    assert f"{name}_NEW: this is the present {name}" in said
