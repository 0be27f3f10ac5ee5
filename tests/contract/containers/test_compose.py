"""compose.yaml and the Dockerfiles: every service is confined, and only API ports are open, on loopback."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from scripts import compose_secrets

ROOT = Path(__file__).resolve().parents[3]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
DOCKERFILES = {path.name.partition(".")[0]: path.read_text() for path in sorted((ROOT / "docker").glob("*.Dockerfile"))}
API_PORTS = {"8000", "8100", "8400", "3000"}
SECRET_NAME = re.compile(r"TOKEN|PASSWORD|API_KEY|SECRET")


def internal(compose: dict[str, Any], service: dict[str, Any]) -> bool:
    networks = [compose["networks"][name] or {} for name in service.get("networks", ())]
    inhibited = "com.docker.network.bridge.inhibit_ipv4"
    return all(network.get("internal") and network["driver_opts"][inhibited] == "true" for network in networks)


def problems(compose: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a compose file, one line a problem."""
    for name, service in compose["services"].items():
        for key, wanted in (
            ("read_only", True),
            ("cap_drop", ["ALL"]),
            ("security_opt", ["no-new-privileges:true"]),
        ):
            if service.get(key) != wanted:
                yield f"{name}: {key} is not {wanted}"
        if str(service.get("user", "0")).partition(":")[0] in ("0", "root"):
            yield f"{name}: runs as root"
        if {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices"} & service.keys() - (
            {"network_mode"} if service.get("network_mode") == "none" else set()
        ):
            yield f"{name}: has more privileges"
        limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
        if "memory" not in limits and "build" not in service.get("profiles", ()):
            yield f"{name}: no limit of memory"
        for port in service.get("ports", ()):
            if not str(port).startswith("127.0.0.1:") or str(port).rpartition(":")[2] not in API_PORTS:
                yield f"{name}: port {port}"
        for variable, value in (service.get("environment") or {}).items():
            if SECRET_NAME.search(variable) and not variable.endswith("_FILE"):
                yield f"{name}: {variable} = {value} is a secret in a variable"
            names_secret = SECRET_NAME.search(variable) and variable.endswith("_FILE")
            if names_secret and Path(value).name not in service.get("secrets", ()):
                yield f"{name}: {variable} names a secret that is not mounted"
        for mount in service.get("volumes", ()):
            if "docker.sock" in mount:
                yield f"{name}: can control the engine"
    if not internal(compose, compose["services"]["tir-math"]):
        yield "tir-math: has a network that is not internal"
    for name, secret in compose["secrets"].items():
        if set(secret) != {"file"}:
            yield f"secret {name}: is not a file"


def test_every_service_is_confined() -> None:
    assert list(problems(COMPOSE)) == []


@pytest.mark.parametrize(
    ("service", "key", "value", "found"),
    [
        ("trainer", "read_only", False, "trainer: read_only is not True"),
        ("redis", "cap_drop", [], "redis: cap_drop is not ['ALL']"),
        ("run", "user", "0:0", "run: runs as root"),
        ("rollout", "privileged", True, "rollout: has more privileges"),
        ("rollout", "deploy", {}, "rollout: no limit of memory"),
        ("redis", "ports", ["127.0.0.1:6379:6379"], "redis: port 127.0.0.1:6379:6379"),
        ("inference", "ports", ["8100:8100"], "inference: port 8100:8100"),
        ("trainer", "environment", {"REDIS_PASSWORD": "x"}, "trainer: REDIS_PASSWORD = x is a secret in a variable"),
        ("tir-math", "networks", ["programs", "edge"], "tir-math: has a network that is not internal"),
        ("tir-math", "volumes", ["/var/run/docker.sock:/x"], "tir-math: can control the engine"),
        ("trainer", "secrets", [], "trainer: REDIS_PASSWORD_FILE names a secret that is not mounted"),
    ],
)
def test_a_fault_in_compose_is_found(service: str, key: str, value: object, found: str) -> None:
    wrong = copy.deepcopy(COMPOSE)
    wrong["services"][service][key] = value
    assert found in list(problems(wrong))


def test_only_trainer_workers_and_run_reach_redis_each_with_its_own_user() -> None:
    reaches = {name for name, service in COMPOSE["services"].items() if "broker" in service.get("networks", ())}
    assert reaches == {"redis", "run", "rollout", "trainer", "trainer-gpu"}
    for name in reaches - {"redis"}:
        variables, role = COMPOSE["services"][name]["environment"], name.removesuffix("-gpu")
        url = variables.get("ARLARENA_REDIS_URL") or variables["REDIS_URL"]
        assert url == f"redis://{role}@redis:6379/0"
        assert variables["REDIS_PASSWORD_FILE"] == f"/run/secrets/redis_{role}"


def test_the_page_only_reads_the_run_asks_for_a_token_and_reaches_no_container() -> None:
    page = COMPOSE["services"]["page"]
    assert page["volumes"] == ["run:/data:ro"]
    assert page["environment"]["ARLARENA_PAGE_TOKEN_FILE"] == "/run/secrets/page_token"
    assert page["networks"] == ["edge"]
    assert "profiles" not in page
    assert "--play" not in page["command"]


def test_only_run_reaches_the_internet() -> None:
    outside = {name for name, network in COMPOSE["networks"].items() if not (network or {}).get("internal")}
    assert outside == {"edge", "downloads"}
    options = COMPOSE["networks"]["edge"]["driver_opts"]
    assert options["com.docker.network.bridge.enable_ip_masquerade"] == "false"
    assert options["com.docker.network.bridge.enable_icc"] == "false"
    reaches = {name for name, service in COMPOSE["services"].items() if "downloads" in service.get("networks", ())}
    assert reaches == {"run"}


@pytest.mark.parametrize("name", sorted(DOCKERFILES))
def test_an_image_has_a_user_labels_a_base_image_and_a_health_check(name: str) -> None:
    text = DOCKERFILES[name]
    user = re.findall(r"^USER (\S+)$", text, re.MULTILINE)[-1]
    assert user == ("999:999" if name == "redis" else "10001:10001")
    assert "ARG BASE_IMAGE=python:3.11-slim" in text
    assert text.count("org.opencontainers.image.") == 4
    assert ("HEALTHCHECK NONE" if name == "console" else "HEALTHCHECK --interval") in text


def stage(text: str, name: str) -> str | None:
    found = re.search(rf"^FROM \S+ AS {name}\n.*?(?=^FROM|^#)", text, re.MULTILINE | re.DOTALL)
    return found[0].strip() if found else None


@pytest.mark.parametrize("name", ["wheels", "torch"])
def test_a_stage_is_the_same_in_all_dockerfiles_so_that_images_share_its_layers(name: str) -> None:
    stages = [text for text in (stage(text, name) for text in DOCKERFILES.values()) if text]
    assert len(stages) == {"wheels": 6, "torch": 3}[name]
    assert len(set(stages)) == 1


def test_every_role_of_redis_has_a_password_file_in_compose() -> None:
    assert {f"redis_{role}" for role in compose_secrets.ROLES} | {"redis_users"} == {
        name for name in COMPOSE["secrets"] if name.startswith("redis_")
    }
