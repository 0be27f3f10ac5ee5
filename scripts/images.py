#!/usr/bin/env python3
"""Builds the images of ARLArena, measures them, and prints the digests of third-party images.

    python3 scripts/images.py build [NAME ...] [--build-option OPTION]   build images, one after another
    python3 scripts/images.py measure [NAME ...] [--json]                print sizes and cold starts as a table
    python3 scripts/images.py pin                                        print third-party images with their digests

Without NAME, `build` and `measure` use all images for CPUs. The variables BASE_IMAGE, TORCH_INDEX and VLLM_IMAGE set
build arguments of the Dockerfiles. TORCH_GPU_INDEX sets TORCH_INDEX of the trainer for GPUs. WHEELS is a folder with
wheels that scripts/wheels.py has built. `pin` prints lines for the file `.env`. With these lines, all builds and runs
use exactly the printed images. `pin` pulls the images from their registries.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION = tomllib.loads((ROOT / "services" / "console" / "pyproject.toml").read_text())["project"]["version"]
ARGUMENTS = ("BASE_IMAGE", "TORCH_INDEX", "VLLM_IMAGE")
START_TIMEOUT_S = 300.0
MEGABYTE = 1e6


@dataclass(frozen=True, slots=True)
class Image:
    """How an image is built and measured.

    Attributes:
        dockerfile: name of the Dockerfile in docker/, without the suffix.
        contains: description of the contents for the table.
        arguments: build arguments.
        start: environment variables for the measurement of the cold start. None: the cold start is not measured.
        command: command for the measurement of the cold start. Empty: the command of the image.
        check: health check for the measurement of the cold start. Empty: the health check of the image.
        gpu: whether the image is the variant for GPUs. Its tag ends in `-gpu`.
    """

    dockerfile: str
    contains: str
    arguments: dict[str, str] = field(default_factory=dict)
    start: tuple[str, ...] | None = None
    command: tuple[str, ...] = ()
    check: tuple[str, ...] = ()
    gpu: bool = False

    def tag(self, name: str) -> str:
        """Return the image reference, such as `arlarena/trainer:0.1.0`. `name`: key of the image in `IMAGES`."""
        return f"arlarena/{name.removesuffix('-gpu')}:{VERSION}{'-gpu' if self.gpu else ''}"


# The package index of torch for GPUs, as in compose.yaml.
CUDA = os.environ.get("TORCH_GPU_INDEX", "")


# Variables for the measurement of cold starts. The services wait for their stage of the run, so they do not connect to
# these addresses.
_JOIN = (
    "ARLARENA_ENVIRONMENT_TOKEN=a-token-for-a-measurement",
    "ARLARENA_INFERENCE_ADMIN_TOKEN=a-token-for-a-measurement",
    "ARLARENA_ENVIRONMENT_URL=http://sokoban:8000",
    "ARLARENA_INFERENCE_URL=http://inference:8100",
    "ARLARENA_REDIS_URL=redis://redis:6379/0",
)
_PAGE = ("view", "/data", "--wait", "--port", "8400")
_GET_PAGE = ("python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8400/api/health', timeout=5)")
# Creates the user of the health check. compose.yaml mounts a configuration with this user, but the image contains none.
_REDIS = ("redis-server", "--user", "probe", "on", ">probe", "+ping", "--save", "")


def environment(name: str, contains: str) -> Image:
    """Return the image of an environment server."""
    return Image("environment", contains, {"ENVIRONMENT": name}, start=_JOIN[:1])


IMAGES = {
    "environment-sokoban": environment("sokoban", "FastAPI, uvicorn, NumPy, Pillow"),
    "environment-alfworld": environment("alfworld", "FastAPI, uvicorn, NumPy"),
    "environment-webshop": environment("webshop", "FastAPI, uvicorn, NumPy, RapidFuzz, PyStemmer"),
    "environment-tir-math": environment("tir_math", "FastAPI, uvicorn, NumPy, SciPy, SymPy, math-verify, libseccomp"),
    "rollout": Image("rollout", "transformers without torch, redis-py", start=_JOIN),
    "inference": Image("inference", "torch, transformers, Starlette", start=_JOIN),
    "trainer": Image("trainer", "torch, transformers, TensorBoard's writer, redis-py", start=_JOIN),
    "console": Image(
        "console", "the packages of trainer and rollout, Typer, Rich", start=(), command=_PAGE, check=_GET_PAGE
    ),
    "redis": Image("redis", "Debian's redis-server", start=(), command=_REDIS),
    "inference-gpu": Image("inference-gpu", "vLLM's image, ARLArena's gateway", gpu=True),
    "trainer-gpu": Image("trainer", "torch for CUDA, transformers, redis-py", {"TORCH_INDEX": CUDA}, gpu=True),
}
CPU_IMAGES = tuple(name for name, image in IMAGES.items() if not image.gpu)


def docker(*arguments: str) -> str:
    """Return the output of a docker command. Raise CalledProcessError if it fails."""
    return subprocess.run(["docker", *arguments], check=True, text=True, stdout=subprocess.PIPE).stdout.strip()


def revision() -> str:
    """Return the commit of the checkout. If files have changed, add `-dirty`. Without git, return `unknown`."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    return done.stdout.strip() or "unknown"


def build_command(name: str, options: list[str]) -> list[str]:
    """Return the command that builds an image."""
    image = IMAGES[name]
    given = {key: os.environ[key] for key in ARGUMENTS if os.environ.get(key)}
    arguments = given | image.arguments | {"VERSION": VERSION, "REVISION": revision()}
    text = (ROOT / "docker" / f"{image.dockerfile}.Dockerfile").read_text()
    words = ["docker", "build", "--file", f"docker/{image.dockerfile}.Dockerfile", "--tag", image.tag(name), *options]
    for key, value in arguments.items():
        if re.search(rf"^ARG {key}\b", text, re.MULTILINE):
            words += ["--build-arg", f"{key}={value}"]
    if os.environ.get("WHEELS"):
        words += ["--build-context", f"wheels={os.environ['WHEELS']}"]
    return [*words, "."]


def build(names: list[str], options: list[str]) -> int:
    """Build images one after another. Return the exit status of the first build that fails, else 0."""
    for name in names:
        print(f"building {IMAGES[name].tag(name)} ...", flush=True)
        if status := subprocess.call(build_command(name, options), cwd=ROOT, env=os.environ | {"DOCKER_BUILDKIT": "1"}):
            return status
    return 0


def size(tag: str) -> float:
    """Return the size of the image with this tag, in MB (1,000,000 bytes)."""
    return int(docker("image", "inspect", "--format", "{{.Size}}", tag)) / MEGABYTE


def cold_start(image: Image, tag: str) -> float | None:
    """Return the seconds from `docker run` until the container is healthy. Return None if `image.start` is None.

    A healthy environment server, page or broker answers requests. A healthy worker, policy server or trainer waits for
    its stage of the run. This function repeats the health check without a pause. (Docker repeats it every 10 s.)

    Raises:
        TimeoutError: the container is not healthy after `START_TIMEOUT_S`.
    """
    if image.start is None:
        return None
    check = (
        image.check or json.loads(docker("image", "inspect", "--format", "{{json .Config.Healthcheck.Test}}", tag))[1:]
    )
    variables = [word for variable in image.start for word in ("--env", variable)]
    started = time.monotonic()
    hardened = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true")
    container = docker("run", "--detach", "--network", "none", *hardened, *variables, tag, *image.command)
    try:
        while subprocess.run(["docker", "exec", container, *check], capture_output=True, check=False).returncode:
            if time.monotonic() - started > START_TIMEOUT_S:
                raise TimeoutError(f"{tag} was not healthy within {START_TIMEOUT_S:g} s: {docker('logs', container)}")
        return time.monotonic() - started
    finally:
        docker("rm", "--force", container)


def measure(names: list[str]) -> list[dict[str, object]]:
    """Measure images. Return one row per image: tag, size in MB, MB over the base image, cold start in seconds."""
    base = size(os.environ.get("BASE_IMAGE") or "python:3.11-slim")
    rows: list[dict[str, object]] = []
    for name in names:
        image, tag = IMAGES[name], IMAGES[name].tag(name)
        total, start = size(tag), cold_start(image, tag)
        rows.append(
            {
                "image": tag,
                "mb": round(total),
                "mb_over_base": round(total - base),
                "cold_start_s": None if start is None else round(start, 1),
                "contains": image.contains,
            }
        )
    return rows


def table(rows: list[dict[str, object]]) -> str:
    """Return the measurements as a table in Markdown."""
    lines = ["| image | size | over the base | cold start | contents |", "|---|---|---|---|---|"]
    for row in rows:
        start = "-" if row["cold_start_s"] is None else f"{row['cold_start_s']} s"
        lines.append(f"| `{row['image']}` | {row['mb']} MB | {row['mb_over_base']} MB | {start} | {row['contains']} |")
    return "\n".join(lines)


def third_party_images() -> dict[str, str]:
    """Return the third-party images that compose.yaml and the Dockerfiles name: variable → image."""
    texts = [path.read_text() for path in (ROOT / "compose.yaml", *sorted((ROOT / "docker").glob("*.Dockerfile")))]
    text = "\n".join(texts)
    found = re.findall(r"\$\{(\w*IMAGE):-([^}]+)\}", text) + re.findall(r"^ARG (\w*IMAGE)=(\S+)$", text, re.MULTILINE)
    return dict(found)


def pin() -> int:
    """Print one line for `.env` per third-party image: VARIABLE=IMAGE@DIGEST.

    Return the exit status: 1 if an image cannot be pulled, else 0.
    """
    status = 0
    for variable, image in third_party_images().items():
        try:
            docker("pull", "--quiet", image)
            digest = docker("image", "inspect", "--format", "{{index .RepoDigests 0}}", image).rpartition("@")[2]
            print(f"{variable}={image}@{digest}")
        except subprocess.CalledProcessError:
            print(f"error: {image} cannot be pulled, so {variable} is not pinned", file=sys.stderr)
            status = 1
    return status


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("build", "measure", "pin"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"an image: {', '.join(IMAGES)}")
    parser.add_argument("--build-option", action="append", default=[], help="further option of `docker build`")
    parser.add_argument("--json", action="store_true", help="print measurements as JSON")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in IMAGES]:
        parser.error(f"there is no image {unknown[0]!r}; known: {', '.join(IMAGES)}")
    return options


def main() -> int:
    """Run the command `build`, `measure` or `pin`. Return the exit status."""
    options = parse(sys.argv[1:])
    names = options.names or list(CPU_IMAGES)
    if options.command == "pin":
        return pin()
    if options.command == "build":
        return build(names, options.build_option)
    rows = measure(names)
    print(json.dumps(rows, indent=1) if options.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
