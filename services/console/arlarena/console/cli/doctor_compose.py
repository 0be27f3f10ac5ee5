"""`arlarena doctor --compose`: checks whether this machine can run the services of a compose.yaml."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arlarena.console.cli.doctor import Finding

# Compose 2.24 is the first version with all merge and interpolation features that compose.yaml uses.
OLDEST_ENGINE, OLDEST_COMPOSE = (20, 10), (2, 24)
MEMORY_GB = 8.0  # the services of the demo use 4 GB, and a build 2 GB more
TIMEOUT_S = 60.0
VERSION_LABEL = "org.opencontainers.image.version"


class EngineError(RuntimeError):
    """A docker command failed.

    The message is the last line of stderr. If the command did not start, or took longer than `TIMEOUT_S`, the message
    states this reason.
    """


def docker(folder: Path, *arguments: str) -> str:
    """Returns the output of a docker command that runs in `folder`.

    Raises:
        EngineError: the command is missing, or failed.
    """
    try:
        done = subprocess.run(
            ["docker", *arguments], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except FileNotFoundError as error:
        raise EngineError("the command docker is not on PATH: install Docker Engine or Docker Desktop") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"docker {arguments[0]}: {error}") from error
    if done.returncode:
        raise EngineError((done.stderr.strip().splitlines() or ["no output"])[-1])
    return done.stdout.strip()


def examine_compose(folder: Path) -> list[Finding]:
    """Check the container engine, and the services of the compose.yaml in `folder`. Returns the findings."""
    try:
        engine = docker(folder, "version", "--format", "{{.Server.Version}}")
        found = [_version("engine", engine, OLDEST_ENGINE, "update Docker Engine")]
        compose = docker(folder, "compose", "version", "--short")
        found.append(_version("compose", compose, OLDEST_COMPOSE, "update Docker Compose"))
        information = json.loads(docker(folder, "info", "--format", "{{json .}}"))
        project = json.loads(docker(folder, "compose", "config", "--format", "json"))
        running = docker(folder, "compose", "ps", "--quiet")
    except EngineError as error:
        return [Finding("engine", "problem", f"{error}")]
    found += [_memory(information), _gpu(information, project), *_secrets(project)]
    found += [] if running else _ports(project)
    return [*found, *_images(folder, project)]


def _version(check: str, text: str, oldest: tuple[int, int], hint: str) -> Finding:
    found = re.match(r"v?(\d+)\.(\d+)", text)
    good = found is not None and (int(found[1]), int(found[2])) >= oldest
    needed = ".".join(map(str, oldest))
    return Finding(check, "ok", text) if good else Finding(check, "problem", f"{text}: {needed} is needed; {hint}")


def _memory(information: dict[str, Any]) -> Finding:
    total = information.get("MemTotal", 0) / 2**30
    result = f"{total:.1f} GB for all containers"
    hint = f"; {MEMORY_GB:g} GB recommended (Docker Desktop: Settings, Resources)"
    return Finding("memory", "ok", result) if total >= MEMORY_GB else Finding("memory", "warning", result + hint)


def _gpu(information: dict[str, Any], project: dict[str, Any]) -> Finding:
    if not any(name.endswith("-gpu") for name in project["services"]):
        return Finding("gpu", "ok", "not used; to use a GPU, set COMPOSE_PROFILES=gpu")
    if "nvidia" in information.get("Runtimes", {}):
        return Finding("gpu", "ok", "the runtime nvidia is installed")
    return Finding("gpu", "problem", "the engine has no runtime nvidia: install the NVIDIA Container Toolkit")


def _secrets(project: dict[str, Any]) -> Iterator[Finding]:
    files = [Path(secret["file"]) for secret in project.get("secrets", {}).values()]
    if missing := [file.name for file in files if not file.is_file()]:
        yield Finding("secrets", "problem", f"missing: {', '.join(missing)}; run `make secrets`")
        return
    if open_folders := {file.parent for file in files if file.parent.stat().st_mode & 0o077}:
        folder = min(open_folders)
        yield Finding("secrets", "problem", f"other users can enter {folder}: run `chmod 700 {folder}`")
        return
    yield Finding("secrets", "ok", f"{len(files)} files")


def _ports(project: dict[str, Any]) -> Iterator[Finding]:
    wanted = [
        (name, port.get("host_ip", "0.0.0.0"), int(port["published"]))
        for name, service in project["services"].items()
        for port in service.get("ports", ())
    ]
    for name, host, port in wanted:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                variable = f"ARLARENA_{name.removesuffix('-gpu').upper()}_PORT"
                reason = os.strerror(error.errno or 0).lower()
                yield Finding("ports", "problem", f"{host}:{port} of {name}: {reason}; set {variable} to another port")
                return
    yield Finding("ports", "ok", f"{len(wanted)} ports of this machine are free")


def _images(folder: Path, project: dict[str, Any]) -> Iterator[Finding]:
    ours = {service["image"] for service in project["services"].values() if service["image"].startswith("arlarena/")}
    versions, missing = set(), []
    for image in sorted(ours):
        try:
            labels = json.loads(docker(folder, "image", "inspect", "--format", "{{json .Config.Labels}}", image)) or {}
        except EngineError:
            missing.append(image)
            continue
        versions.add(labels.get(VERSION_LABEL, "unknown"))
    if missing:
        yield Finding("images", "warning", f"not built: {', '.join(missing)}; run `make images`")
    elif len(versions) > 1:
        yield Finding(
            "images", "problem", f"different versions ({', '.join(sorted(versions))}): run `make images` again"
        )
    else:
        yield Finding("images", "ok", f"{len(ours)} images of version {', '.join(versions)}")
