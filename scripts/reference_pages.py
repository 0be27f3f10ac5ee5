"""Writes the generated pages of docs/reference: command line, HTTP API of the environment server, glossary of metrics.

The page about the command line contains the `--help` of each command. The source of the page about the HTTP API is the
`/openapi.json` of a running server. The sources of the glossary are `arlarena/proto/metrics.toml` and the Prometheus
registries of the services.

.venv/bin/python -m scripts.reference_pages            write the pages
.venv/bin/python -m scripts.reference_pages --check    exit with 1 if a page is out of date
"""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.request import urlopen

from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector
from scripts.generated_pages import write_or_check

from arlarena.env_server.sessions.metrics import EnvServerMetrics
from arlarena.inference.embedded.scheduler import Counters
from arlarena.inference.embedded.serving.metrics import InferenceMetrics
from arlarena.inference.gateway.metrics import GatewayMetrics
from arlarena.rollout.worker import WorkerCounters
from arlarena.rollout.worker_metrics import WorkerCollector
from arlarena.trainer.metrics.step_collector import StepCollector

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"
# Commands of modules that `arlarena` does not offer.
MODULES = (
    "arlarena.trainer tiny",
    "arlarena.rollout worker",
    "arlarena.rollout demonstrate",
    "arlarena.rollout evaluate",
    "arlarena.environment.contract",
    "arlarena.proto.convert",
)
HELP_TIMEOUT_S = 120.0
COMMANDS_HEAD = """\
# Command line

This page contains the `--help` of every command. `scripts/reference_pages.py` writes this page. In a checkout, the
commands are in `.venv/bin`. [Run on one machine](../how-to/run-on-one-machine.md) explains `arlarena up` and its exit
statuses.
"""
HTTP_HEAD = """\
# HTTP API of the environment server

This page lists the routes and types of every environment server. `scripts/reference_pages.py` writes this page from
the server's `/openapi.json`. [Environments](environments.md#playing) explains sessions, steps, limits and errors.

The routes `/ws` (OpenEnv's WebSocket), `/docs` and `/openapi.json` are not on this page.
"""


METRICS = ROOT / "proto" / "arlarena" / "proto" / "metrics.toml"
METRICS_HEAD = """\
# Metrics

This page lists every metric, with its unit, its definition and the module that computes it.
`scripts/reference_pages.py` writes this page from `arlarena/proto/metrics.toml` and from the Prometheus registries of
the servers.

Shares are between 0 and 1. Log-probabilities, KL and entropy are in nats per token. A is the advantage, π_θ the trained
policy, and π_old the policy in the denominator of the importance ratio. k3 is an estimate of a KL divergence: the mean
of e^d - d - 1 for a difference d of log-probabilities.
"""
METRICS_SECTIONS = {
    "training": """\
## Training

These metrics are the keys of `RUN/metrics.jsonl`. The file has one JSON object per step. A value that is not finite is
written as null. TensorBoard shows the same values.

Metrics of episodes and groups are computed from all groups that the step collected, including the groups that the
filter dropped. The definition states exceptions. Metrics of updates are means over the updates of the step; `…_min` and
`…_max` are the minimum and the maximum. The modules are in `arlarena.trainer`.
""",
    "evaluation": """\
## Evaluation

These metrics are keys of the result of `python -m arlarena.rollout evaluate`. A training run calls this command. The
modules are in `arlarena.rollout`. `arlarena eval` writes other keys into `summary.json`
([Evaluate closed models](../how-to/evaluate-closed-models.md#summaryjson)).
""",
    "episode": """\
## Episode

These metrics are keys of the `metrics` of a recorded episode. The `behaviour` of an evaluation contains the means of
these metrics over the episodes. The training metrics of the same names are shares of turns. The modules are in
`arlarena.rollout`.
""",
}
PROMETHEUS_HEAD = """\
## Prometheus

The route `/metrics` of each server reports these metrics. If `metrics_port` is set, the trainer and the rollout workers
report metrics on this port. The trainer also reports each [training metric](#training) of the newest step as
`arlarena_trainer_last_NAME`, such as `arlarena_trainer_last_success_rate`. The names of counters end in `_total`.
Histograms have the suffixes `_bucket`, `_sum` and `_count`.
"""


def help_of(command: str) -> str:
    """Return the help text of a command line such as `arlarena serve env`."""
    program, *words = command.split()
    if program == "arlarena":
        program, words = "arlarena.console", words
    call = [sys.executable, "-m", program, *words, "--help"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ARLARENA_")}
    done = subprocess.run(
        call, capture_output=True, text=True, check=True, timeout=HELP_TIMEOUT_S, cwd=ROOT,
        env=environment | {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"},
    )  # fmt: skip
    text = done.stdout.replace("python -m arlarena.console", "arlarena")
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def subcommands(text: str) -> list[str]:
    """Return the names of the subcommands that a help text lists under `Commands:`."""
    return re.findall(r"^  ([a-z]+) ", text.partition("\nCommands:\n")[2], re.MULTILINE)


def command_pages() -> dict[str, str]:
    """Return the help texts of all commands: command → help text."""
    found: dict[str, str] = {}
    wanted = ["arlarena", *MODULES]
    with ThreadPoolExecutor(2) as pool:
        while wanted:
            texts = list(pool.map(help_of, wanted))
            found |= dict(zip(wanted, texts, strict=True))
            pairs = [(c, t) for c, t in zip(wanted, texts, strict=True) if c not in MODULES]
            wanted = [f"{command} {name}" for command, text in pairs for name in subcommands(text)]
    return found


def command_line() -> str:
    """Return the page about the command line."""
    found = command_pages()
    names = sorted(name for name in found if name not in MODULES) + list(MODULES)
    titles = [name if name not in MODULES else f"python -m {name}" for name in names]
    blocks = [f"\n## `{title}`\n\n```text\n{found[name]}\n```\n" for title, name in zip(titles, names, strict=True)]
    return COMMANDS_HEAD + "".join(blocks)


def openapi() -> dict[str, Any]:
    """Start a server with the environment `guess`, and return the server's OpenAPI document."""
    call = [sys.executable, "-m", "arlarena.env_server", "guess", "--port", "0"]
    with subprocess.Popen(call, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            port = json.loads(server.stdout.readline())["port"]
            with urlopen(f"http://127.0.0.1:{port}/openapi.json", timeout=HELP_TIMEOUT_S) as reply:
                document: dict[str, Any] = json.load(reply)
        finally:
            server.terminate()
    return document


def kind(schema: dict[str, Any]) -> str:
    """Describe a JSON schema in words, with links to the types on the page about the HTTP API."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(kind(each) for each in choices)
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {kind(schema['items'])}" if schema.get("items") else "list"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {kind(schema['additionalProperties'])}"
    named: str = schema.get("type", "any")
    return named


def _body_type(part: dict[str, Any]) -> str:
    """Describe the type of the body of a request or a response."""
    schemas = [each.get("schema", {}) for each in part.get("content", {}).values()]
    return kind(schemas[0]) if schemas and schemas[0] else ""


def _route(method: str, path: str, operation: dict[str, Any]) -> str:
    query = "&".join(p["name"] for p in operation.get("parameters", []) if p["in"] == "query")
    responses = operation["responses"]
    good = next(code for code in responses if code.startswith("2"))
    cells = (
        f"`{method.upper()} {path}{'?' if query else ''}{query}`", operation.get("summary", ""),
        _body_type(operation.get("requestBody", {})), _body_type(responses[good]),
    )  # fmt: skip
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _fields(schema: dict[str, Any]) -> Iterator[str]:
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        default = "required" if name in required else f"`{json.dumps(field['default'])}`" if "default" in field else ""
        description = field.get("description", "").replace("\n", " ")
        yield f"| `{name}` | {kind(field)} | {default} | {description} |\n".replace("  |", " |")


def http_api() -> str:
    """Return the page about the HTTP API."""
    document = openapi()
    parts = [HTTP_HEAD, "\n## Routes\n\n| route | meaning | body | answer |\n|---|---|---|---|\n"]
    for path, operations in document["paths"].items():
        parts += [_route(method, path, operation) for method, operation in operations.items()]
    parts.append("\n## Types\n")
    for name, schema in sorted(document["components"]["schemas"].items()):
        text = inspect.cleandoc(schema.get("description", ""))
        parts.append(f"\n### {name}\n" + (f"\n{text}\n" if text else ""))
        if rows := list(_fields(schema)):
            parts += ["\n| field | type | default | meaning |\n|---|---|---|---|\n", *rows]
        elif not text:
            parts.append(f"\n{kind(schema)}\n")
    return "".join(parts)


def registries() -> dict[str, CollectorRegistry]:
    """Return the Prometheus registry of each server: name of the server → registry. Starts no server."""
    numbers = dict.fromkeys(("running", "waiting", "slots", "cached_prompts"), 0)
    engine = SimpleNamespace(**numbers, version="", counters=Counters())
    push = SimpleNamespace(outcomes={})
    worker = SimpleNamespace(name="", playing=0, counters=WorkerCounters())
    return {
        "environment server": EnvServerMetrics("guess").registry,
        "policy server": InferenceMetrics(cast(Any, engine), cast(Any, push)).registry,
        "gateway": GatewayMetrics(cast(Any, SimpleNamespace(replicas=[]))).registry,
        "trainer": _registry(StepCollector("", 0)),
        "rollout worker": _registry(WorkerCollector("", cast(Any, worker))),
    }


def _registry(collector: Collector) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(collector)
    return registry


def metrics() -> str:
    """Return the glossary of metrics."""
    parts = [METRICS_HEAD]
    for section, entries in tomllib.loads(METRICS.read_text(encoding="utf-8")).items():
        parts.append(f"\n{METRICS_SECTIONS[section]}\n| metric | unit | definition | module |\n|---|---|---|---|\n")
        parts += [f"| `{key}` | {unit} | {text} | `{module}` |\n" for key, (unit, text, module) in entries.items()]
    parts.append(f"\n{PROMETHEUS_HEAD}\n| metric | type | definition | server |\n|---|---|---|---|\n")
    for server, registry in registries().items():
        for family in registry.collect():
            name = f"{family.name}_total" if family.type == "counter" else family.name
            parts.append(f"| `{name}` | {family.type} | {family.documentation} | {server} |\n")
    return "".join(parts)


PAGES = {
    REFERENCE / "command-line.md": command_line,
    REFERENCE / "http-api.md": http_api,
    REFERENCE / "metrics.md": metrics,
}


def main() -> int:
    """Write the generated pages, or check them (`--check`). Return the exit status."""
    wanted = {path: write() for path, write in PAGES.items()}
    return write_or_check(wanted)


if __name__ == "__main__":
    sys.exit(main())
