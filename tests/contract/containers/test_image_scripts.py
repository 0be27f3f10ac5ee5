"""scripts/images.py, sbom.py and compose_secrets.py, as far as they need no engine."""

import stat
from pathlib import Path

import pytest
import yaml
from scripts import compose_secrets, images, sbom

COMPOSE = yaml.safe_load((images.ROOT / "compose.yaml").read_text())


def test_every_image_of_compose_is_built_by_the_script_from_the_same_dockerfile() -> None:
    built = {image.tag(name): f"docker/{image.dockerfile}.Dockerfile" for name, image in images.IMAGES.items()}
    ours = {
        service["image"].replace("${ARLARENA_VERSION:-0.1.0}", images.VERSION): service["build"]["dockerfile"]
        for service in COMPOSE["services"].values()
        if "build" in service
    }
    assert ours == built


def test_a_build_gets_the_arguments_that_its_dockerfile_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_INDEX", "http://index.example/cpu")
    monkeypatch.delenv("BASE_IMAGE", raising=False)
    trainer = images.build_command("trainer", ["--network=host"])
    assert "TORCH_INDEX=http://index.example/cpu" in trainer
    assert "--network=host" in trainer
    server = images.build_command("environment-tir-math", [])
    assert "ENVIRONMENT=tir_math" in server
    assert not any(word.startswith("TORCH_INDEX") for word in server)
    assert "arlarena/trainer:0.1.0-gpu" in images.build_command("trainer-gpu", [])


def test_the_images_of_others_are_found() -> None:
    found = images.third_party_images()
    assert found["BASE_IMAGE"] == "python:3.11-slim"
    assert set(found) == {
        "BASE_IMAGE", "VLLM_IMAGE", "ARLARENA_REDIS_IMAGE", "ARLARENA_PROMETHEUS_IMAGE", "ARLARENA_GRAFANA_IMAGE",
    }  # fmt: skip


def test_the_start_of_every_image_for_cpus_is_measured_and_that_of_the_page_with_the_check_of_compose() -> None:
    assert [name for name in images.CPU_IMAGES if images.IMAGES[name].start is None] == []
    assert ["CMD", *images.IMAGES["console"].check] == COMPOSE["services"]["page"]["healthcheck"]["test"]


def test_a_table_of_measurements_has_one_row_for_each_image() -> None:
    row = {"image": "a:1", "mb": 300, "mb_over_base": 70, "cold_start_s": 1.5, "contains": "x"}
    lines = images.table([row, row | {"cold_start_s": None}]).splitlines()
    assert lines[2:] == ["| `a:1` | 300 MB | 70 MB | 1.5 s | x |", "| `a:1` | 300 MB | 70 MB | - | x |"]


def test_packages_of_debian_have_a_package_url() -> None:
    (found,) = sbom.debian_components("libc6=2.36-9+deb12u9=amd64\n")
    assert found["purl"] == "pkg:deb/debian/libc6@2.36-9+deb12u9?arch=amd64"


def test_secrets_are_kept_and_only_the_owner_can_reach_them(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    compose_secrets.write_all(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    names = {Path(secret["file"]).name for secret in COMPOSE["secrets"].values()}
    first = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(first) == names
    assert len(set(first.values())) == len(first)
    assert min(len(text.strip()) for text in first.values()) >= 43  # 32 random bytes
    (folder / "redis_trainer").unlink()
    compose_secrets.write_all(folder)
    second = {path.name: path.read_text() for path in folder.iterdir()}
    assert {name for name in first if first[name] != second[name]} == {"redis_trainer", "redis_users"}
    assert not any(first["redis_trainer"].strip() in text for text in second.values())
