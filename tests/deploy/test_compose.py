"""deploy/docker-compose.yml: names only what exists, here and in the settings."""

import re
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
import yaml

from app.settings import GROUPS
from tests.deploy.dockerfile import ROOT

COMPOSE = ROOT / "deploy" / "docker-compose.yml"
# Read by compose itself, not by the server.
_COMPOSE_VARIABLES = {"POSTGRES_PASSWORD", "HTTP_PORT"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE.read_text())


@pytest.fixture(scope="module")
def settings_names() -> set[str]:
    fields = (field for group in GROUPS.values() for field in group.model_fields.values())
    return {str(field.alias) for field in fields}


def test_every_variable_of_the_server_is_a_setting(
    compose: dict[str, Any], settings_names: set[str]
) -> None:
    assert set(compose["services"]["app"]["environment"]) <= settings_names


def test_every_variable_taken_from_the_operator_is_known(settings_names: set[str]) -> None:
    asked = set(re.findall(r"\$\{([A-Z_]+)", COMPOSE.read_text()))
    assert asked <= settings_names | _COMPOSE_VARIABLES


def test_each_variable_is_passed_under_its_own_name(compose: dict[str, Any]) -> None:
    for name, value in compose["services"]["app"]["environment"].items():
        found = re.fullmatch(r"\$\{([A-Z_]+)[^}]*\}", str(value))
        assert not found or found[1] == name


def test_services_networks_and_volumes_that_are_named_exist(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert set(service.get("depends_on", {})) <= set(compose["services"])
        assert set(service["networks"]) <= set(compose["networks"])
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            exists = source in compose["volumes"] or (COMPOSE.parent / source).exists()
            assert exists, source


def test_images_are_pinned_to_a_release(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if "build" not in service:
            assert re.search(r":\d[\w.]*-\w+$|@sha256:", service["image"]), name


def test_only_nginx_is_reachable_and_only_nginx_is_trusted(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["nginx"]
    nginx = ip_address(services["nginx"]["networks"]["edge"]["ipv4_address"])
    trusted = ip_network(services["app"]["environment"]["TRUSTED_PROXIES"])
    assert list(trusted) == [nginx]
    assert nginx in ip_network(compose["networks"]["edge"]["ipam"]["config"][0]["subnet"])
    assert compose["networks"]["inside"]["internal"] is True


def test_several_workers_have_what_they_need(compose: dict[str, Any]) -> None:
    environment = compose["services"]["app"]["environment"]
    assert environment["DATABASE_TYPE"] == "postgresql"
    assert environment["USE_REDIS"] == "true"
    assert "@postgres:" in environment["DATABASE_URL"]
    assert "//redis:" in environment["REDIS_URL"]


def test_the_server_has_no_rights_that_it_does_not_need(compose: dict[str, Any]) -> None:
    server = compose["services"]["app"]
    assert server["read_only"] is True
    assert server["cap_drop"] == ["ALL"]
    assert server["volumes"] == ["state:/app/var"]
