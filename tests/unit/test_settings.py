"""Configuration: every fault is one sentence with its variable, and the documentation agrees."""

from pathlib import Path

import pytest

from app.admin.env_example import render_env_example
from app.settings import GROUPS, SettingsError, load_settings
from app.start_checks import list_setting_faults
from tests.support.servers import ROOT


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for group in GROUPS.values():
        for field in group.model_fields.values():
            monkeypatch.delenv(str(field.alias), raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "eighty"),
        ("PORT", "70000"),
        ("DATABASE_TYPE", "mysql"),
        ("USE_REDIS", "perhaps"),
        ("ENVIRONMENT", "staging"),
        ("SMS_PROVIDER", "pigeon"),
        ("TRUSTED_PROXIES", "10.0.0.0/8, nonsense"),
        ("WS_HEARTBEAT_SECONDS", "0"),
        ("SMS_LIMIT_PER_PHONE", "-1"),
        ("LOG_LEVEL", "LOUD"),
        ("UPDATE_RETENTION_DAYS", "0"),
    ],
)
def test_a_wrong_value_is_named_but_not_repeated(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert len(caught.value.faults) == 1
    assert caught.value.faults[0].startswith(f"{name}: ")


def test_all_faults_are_listed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "x")
    monkeypatch.setenv("USE_REDIS", "x")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert len(caught.value.faults) == 2


def test_a_database_url_of_the_other_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:secret-password@h/n")
    with pytest.raises(SettingsError, match="DATABASE_URL") as caught:
        load_settings()
    assert "secret-password" not in str(caught.value)


def test_a_plain_postgresql_url_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_TYPE", "postgresql")
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:p%40ss@host:5432/name")
    assert load_settings().database_url == "postgresql+asyncpg://user:p%40ss@host:5432/name"


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("PORT=9001\nHOST=0.0.0.0\n")
    monkeypatch.setenv("PORT", "9002")
    settings = load_settings()
    assert (settings.server.port, settings.server.host) == (9002, "0.0.0.0")


def test_env_example_agrees_with_the_settings() -> None:
    assert (ROOT / "env.example").read_text() == render_env_example()


def test_env_example_as_it_is_means_the_defaults() -> None:
    bare = load_settings(env_file=None)
    Path(".env").write_text(render_env_example())
    assert load_settings() == bare


@pytest.mark.parametrize(
    ("environment", "variable"),
    [
        ({"WORKERS": "2"}, "WORKERS"),
        (
            {
                "WORKERS": "2",
                "DATABASE_TYPE": "postgresql",
                "DATABASE_URL": "postgresql://u:p@h/n",
            },
            "WORKERS",
        ),
        ({"SMS_PROVIDER": "http"}, "SMS_HTTP_URL"),
    ],
)
def test_what_cannot_run_is_refused_with_its_variable(
    environment: dict[str, str], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    faults = list_setting_faults(load_settings())
    assert [fault.split(":")[0] for fault in faults] == [variable]


def test_what_a_person_may_send_unless_somebody_says_otherwise() -> None:
    limits = load_settings(env_file=None).limits
    assert (limits.sends, limits.sends_per_chat, limits.sends_burst) == (120, 60, 30)
