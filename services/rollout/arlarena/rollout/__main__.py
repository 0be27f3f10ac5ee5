"""`python -m arlarena.rollout worker | evaluate | demonstrate`.

Exit status: 0: finished, or a signal stopped a worker. 1: a service failed, some episodes have no result, or no prompt
fits the context. 2: the configuration is wrong, or a service refused a request. 130: a signal stopped `evaluate` or
`demonstrate`.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from arlarena.client.environments import EnvironmentClient
from arlarena.client.errors import Refused, ServiceError
from arlarena.client.policy import PolicyClient
from arlarena.client.transport import Timeouts
from arlarena.proto.atomic_files import write_json
from arlarena.proto.config import ConfigError, exit_on_config_error, print_error
from arlarena.proto.env_api import Info
from arlarena.proto.http.addresses import service_url
from arlarena.proto.http.event_loop import loop_factory, rare_garbage_collection
from arlarena.proto.http.metrics_port import served_metrics
from arlarena.proto.served import ServedEnvironment
from arlarena.proto.shared_settings import EnvironmentKeys
from arlarena.proto.splits import check_tasks, find_split
from arlarena.proto.streams.queue import StreamError, Streams
from arlarena.proto.telemetry import Logger, get_logger
from arlarena.proto.text.usage_name import program
from arlarena.proto.text.wording import printable
from arlarena.proto.trajectory import Sampling
from arlarena.rollout.arguments import fraction, int_at_least
from arlarena.rollout.demonstrate import demonstration_assignments, write_demonstrations
from arlarena.rollout.episode import Policy
from arlarena.rollout.evaluate import (
    describe,
    eval_assignments,
    eval_sampling,
    no_prompt_fits,
    summarise,
    write_episodes,
)
from arlarena.rollout.play_all import play_all, progress_log
from arlarena.rollout.policies import ChatPolicy, EnginePolicy, ExpertPolicy
from arlarena.rollout.runner import InfraFailure, Runner, environment_client
from arlarena.rollout.settings import (
    Addresses,
    EvaluationSettings,
    RolloutSettings,
    api_key,
    load_addresses,
    load_environment,
    load_evaluation,
    load_rollout,
    load_seed,
    tokenizer_source,
)
from arlarena.rollout.splits import check_environment, drawn_indices
from arlarena.rollout.tokens import TokenizerError, Tokens
from arlarena.rollout.worker import Worker
from arlarena.rollout.worker_metrics import WorkerCollector

# 128 + SIGINT, the exit status of an interrupted command.
EXIT_INTERRUPTED = 130
# Exit status if a service refused a request. The launcher does not restart a command with this exit status, because a
# retry would also fail.
EXIT_REFUSED = 2


@dataclass(frozen=True, slots=True)
class Setup:
    """The settings and objects that all commands use."""

    settings: RolloutSettings
    addresses: Addresses
    tokens: Tokens
    environment: EnvironmentKeys
    log: Logger


def _tokens(source: str) -> Tokens:
    try:
        return Tokens.load(source)
    except TokenizerError as error:
        raise ConfigError(str(error)) from error


def _setup(args: argparse.Namespace) -> Setup:
    settings = load_rollout(args.config)
    addresses = load_addresses(
        {name: getattr(args, name, None) for name in ("environment_url", "inference_url", "redis_url")}
    )
    tokens = _tokens(tokenizer_source(args.config, args.tokenizer))
    return Setup(settings, addresses, tokens, load_environment(args.config), get_logger("rollout"))


def _environments(setup: Setup) -> EnvironmentClient:
    addresses, url = setup.addresses, _url(setup.addresses.environment_url)
    try:
        return environment_client(url, setup.settings, addresses.environment_token, addresses.environment_pods)
    except ValueError as error:
        raise ConfigError(f"ARLARENA_ENVIRONMENT_PODS: {error}") from error


def _inference(setup: Setup) -> PolicyClient:
    s = setup.settings
    timeouts = Timeouts(s.connect_timeout_s, s.generate_timeout_s)
    key = setup.addresses.inference_api_key
    return PolicyClient(
        _url(setup.addresses.inference_url),
        timeouts,
        retries=s.request_retries,
        token=key.get_secret_value() if key else None,
    )


def _url(url: str) -> str:
    try:
        return service_url(url)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _cancel_on_sigterm() -> None:
    """Cancel this command on SIGTERM. A cancelled command closes its sessions on the environment server."""
    task = asyncio.current_task()
    if task is not None and threading.current_thread() is threading.main_thread():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


async def _worker(setup: Setup, run: str, name: str) -> int:
    stop = asyncio.Event()
    _stop_on_signals(stop)
    s = setup.settings
    async with AsyncExitStack() as stack:
        streams = await stack.enter_async_context(
            await Streams.connect(
                setup.addresses.redis_url,
                run,
                timeout_s=s.broker_timeout_s,
                reconnect_s=s.broker_reconnect_s,
                lease_ttl_s=s.lease_ttl_s,
                max_deliveries=s.max_deliveries,
                full_timeout_s=s.broker_full_timeout_s,
            )
        )
        inference = await stack.enter_async_context(_inference(setup))
        runner = Runner(await stack.enter_async_context(_environments(setup)), inference, s, setup.log)
        if not await _ready_or_stopped(runner, stop):
            return 0
        info = await check_environment(runner.environments, setup.environment, setup.log)
        context = (await inference.model()).max_tokens
        policy_for = partial(_engine_policy, inference, setup.tokens.with_tags(info.parser.tags), context, info.stop)
        worker = Worker(name, streams, runner, policy_for, s, setup.log)
        stack.enter_context(served_metrics(WorkerCollector(run, worker), s.metrics_host, s.metrics_port, setup.log))
        await worker.run(stop)
    return 0


async def _ready_or_stopped(runner: Runner, stop: asyncio.Event) -> bool:
    """Wait until the services are ready, and return True. If a signal arrives first, return False."""
    ready, stopped = asyncio.ensure_future(runner.wait_ready()), asyncio.ensure_future(stop.wait())
    await asyncio.wait((ready, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not ready.done():
        ready.cancel()
        return False
    ready.result()
    return True


def _engine_policy(
    inference: PolicyClient, tokens: Tokens, context: int | None, stop: Sequence[str], sampling: Sampling
) -> EnginePolicy:
    return EnginePolicy(inference, tokens, sampling, context, stop)


async def _evaluate(setup: Setup, eval_set: EvaluationSettings, out: Path, episodes: Path | None) -> int:
    _cancel_on_sigterm()
    started = time.monotonic()
    async with _environments(setup) as environments, _inference(setup) as inference:
        runner = Runner(environments, inference, setup.settings, setup.log)
        await runner.wait_ready()
        info = await check_environment(environments, setup.environment, setup.log)
        check_tasks(info, eval_set.split, eval_set.first, eval_set.count, "[evaluation]")
        environment, context = info.name, (await inference.model()).max_tokens
        tokens = setup.tokens.with_tags(info.parser.tags)
        policy = EnginePolicy(inference, tokens, eval_sampling(eval_set), context, info.stop)
        assignments = eval_assignments(eval_set, environment)
        report = progress_log(setup.log, "evaluating", len(assignments))
        played = await play_all(runner, assignments, policy, concurrency=eval_set.concurrency, progress=report)
    result = summarise(eval_set, environment, assignments, played, time.monotonic() - started)
    result["data"] = msgspec.to_builtins(info.data)
    result["served"] = msgspec.to_builtins(ServedEnvironment.of(info))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, result)
    if episodes is not None:
        write_episodes(episodes, assignments, played, eval_set.episodes, int(1e6 * eval_set.episodes_mb))
    print(printable(describe(result)))
    if (why := no_prompt_fits(played)) is not None:
        print_error(why)
        return 1
    return 1 if result["errors"] else 0


async def _demonstrate(setup: Setup, args: argparse.Namespace, seed: int) -> int:
    _cancel_on_sigterm()
    started = time.monotonic()
    async with _environments(setup) as environments:
        runner = Runner(environments, None, setup.settings, setup.log)
        await runner.wait_ready()
        info = await check_environment(environments, setup.environment, setup.log)
        split = find_split(info, args.split, "--split")
        indices = drawn_indices(split, args.first, args.count, seed)
        if len(indices) < args.count:
            setup.log.warning(
                "fewer_tasks_than_asked", split=split.name, size=split.size, asked=args.count, played=len(indices)
            )
        assignments = demonstration_assignments(info.name, split.name, indices, args.episode_seed, args.attempts)
        report = progress_log(setup.log, "demonstrating", len(assignments))
        async with _teacher(setup, args, info) as policy:
            played = await play_all(runner, assignments, policy, concurrency=args.concurrency, progress=report)
    counts = write_demonstrations(args.out, assignments, played, args.distinct, args.min_score)
    counts["seconds"] = round(time.monotonic() - started, 3)
    print(msgspec.json.encode({"event": "demonstrations", "out": str(args.out), **counts}).decode())
    return 1 if counts["errors"] else 0


@asynccontextmanager
async def _teacher(setup: Setup, args: argparse.Namespace, info: Info) -> AsyncIterator[Policy]:
    """Yields the policy that plays the demonstrations: the model at `--teacher-url`, or else the expert."""
    if args.teacher_url is None:
        yield ExpertPolicy(
            setup.tokens, args.expert_noise, train_on_noise=args.train_on_noise, action=info.parser.action
        )
        return
    key = api_key(args.teacher_key_variable)
    s = setup.settings
    timeouts = Timeouts(s.connect_timeout_s, s.generate_timeout_s)
    async with PolicyClient(_url(args.teacher_url), timeouts, retries=s.request_retries, token=key) as client:
        model = args.teacher_model or (await client.model()).name
        sampling = Sampling(temperature=args.temperature, max_tokens=args.max_tokens)
        yield ChatPolicy(client, model, setup.tokens, sampling)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m arlarena.rollout", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_worker(_subcommand(commands, "worker", "play groups of episodes for a trainer"))
    _add_evaluate(_subcommand(commands, "evaluate", "play a fixed evaluation set and report the success rate"))
    _add_demonstrate(_subcommand(commands, "demonstrate", "record successful episodes of an expert or a model"))
    return parser


def _subcommand(commands: Any, name: str, summary: str) -> argparse.ArgumentParser:
    """Add a subcommand to `commands`, with the options that all subcommands share. Returns the subcommand's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=summary.capitalize() + ".", prog=program(f"arlarena.rollout {name}")
    )
    parser.add_argument("--config", type=Path, help="TOML file with the run's configuration")
    address = "URL of the environment server; default: ARLARENA_ENVIRONMENT_URL, else http://127.0.0.1:8000"
    parser.add_argument("--environment-url", help=address)
    tokenizer = "directory or Hub name of the policy's tokenizer; default: [policy] tokenizer, else [policy] path"
    parser.add_argument("--tokenizer", help=tokenizer)
    return parser


def _add_inference_url(parser: argparse.ArgumentParser) -> None:
    address = "URL of the policy server; default: ARLARENA_INFERENCE_URL, else http://127.0.0.1:8100"
    parser.add_argument("--inference-url", help=address)


def _add_worker(worker: argparse.ArgumentParser) -> None:
    _add_inference_url(worker)
    worker.add_argument("--redis-url", help="URL of Redis; default: ARLARENA_REDIS_URL, else redis://127.0.0.1:6379/0")
    worker.add_argument("--run-name", required=True, help="name of the run; the trainer must have the same name")
    worker.add_argument("--name", default=socket.gethostname(), help="name of this worker, unique in the run")


def _add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    _add_inference_url(evaluate)
    evaluate.add_argument("--out", type=Path, required=True, help="JSON file of the result")
    episodes = "also write the episodes to this JSON-lines file; limits: [evaluation] episodes and episodes_mb"
    evaluate.add_argument("--episodes", dest="episodes_file", type=Path, help=episodes)
    for flag, kind in (
        ("--split", str),
        ("--first", int_at_least(0)),
        ("--count", int_at_least(1)),
        ("--attempts", int_at_least(1)),
        ("--temperature", float),
        ("--max-tokens", int_at_least(1)),
        ("--seed", int),
    ):
        key = flag.removeprefix("--").replace("-", "_")
        field = EvaluationSettings.model_fields[key]
        text = f"{field.description}; default: [evaluation] {key}, else {field.default}"
        evaluate.add_argument(flag, type=kind, help=text)


def _add_demonstrate(demonstrate: argparse.ArgumentParser) -> None:
    demonstrate.add_argument("--split", default="train", help="split of the environment (default: train)")
    first = (
        "position of the first task in the task order (see --seed); for an endless split: index of the first task; "
        "default: 0"
    )
    demonstrate.add_argument("--first", type=int_at_least(0), default=0, help=first)
    demonstrate.add_argument("--count", type=int_at_least(1), required=True, help="number of tasks")
    seed = "seed of the task order; default: ARLARENA_SEED, else [run] seed, else 0"
    demonstrate.add_argument("--seed", type=int, help=seed)
    demonstrate.add_argument("--episode-seed", type=int, default=0, help="reset seed of every episode")
    concurrency = "maximum number of episodes that are played at the same time; default: 256"
    demonstrate.add_argument("--concurrency", type=int_at_least(1), default=256, help=concurrency)
    distinct = (
        "definition of duplicates (the command writes only the first of several duplicates); room: episodes with the "
        "same task content (in Sokoban, mirror images of a room have the same content); prompt: episodes with the same "
        "first prompt; default: room"
    )
    demonstrate.add_argument("--distinct", choices=("room", "prompt"), default="room", help=distinct)
    demonstrate.add_argument("--attempts", type=int_at_least(1), default=1, help="episodes per task; default: 1")
    min_score = "write only episodes with a score above this value; default: 0.9"
    demonstrate.add_argument("--min-score", type=float, default=0.9, help=min_score)
    expert_noise = (
        "fraction of turns in which a random action or an invalid reply replaces the expert's reply; default: 0"
    )
    demonstrate.add_argument("--expert-noise", type=fraction, default=0.0, help=expert_noise)
    train_on_noise = (
        "with --expert-noise: replace replies only by random actions, and include the replaced turns in the loss; "
        "without this option, the replaced turns have no loss"
    )
    demonstrate.add_argument("--train-on-noise", action="store_true", help=train_on_noise)
    _add_teacher(demonstrate)
    demonstrate.add_argument("--out", type=Path, required=True, help="output file (format: arlarena.proto.trajectory)")


def _add_teacher(demonstrate: argparse.ArgumentParser) -> None:
    demonstrate.add_argument("--teacher-url", help="URL of an OpenAI-compatible server: its model replaces the expert")
    demonstrate.add_argument("--teacher-model", help="name of the teacher's model; default: the server's first model")
    demonstrate.add_argument(
        "--teacher-key-variable", default="OPENAI_API_KEY", help="environment variable with the API key of the teacher"
    )
    demonstrate.add_argument("--temperature", type=float, default=1.0, help="sampling temperature of the teacher")
    demonstrate.add_argument(
        "--max-tokens", type=int_at_least(1), default=512, help="maximum number of tokens in one reply of the teacher"
    )


def _command(args: argparse.Namespace) -> Coroutine[Any, Any, int]:
    if args.command == "evaluate":
        names = ("split", "first", "count", "attempts", "temperature", "max_tokens", "seed")
        eval_set = load_evaluation(args.config, {name: getattr(args, name) for name in names})
        return _evaluate(_setup(args), eval_set, args.out, args.episodes_file)
    if args.command == "demonstrate":
        return _demonstrate(_setup(args), args, load_seed(args.config, args.seed))
    return _worker(_setup(args), args.run_name, args.name)


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit status. Errors that the user can fix are printed as one line on stderr."""
    args = _parser().parse_args(argv)
    try:
        with rare_garbage_collection(), asyncio.Runner(loop_factory=loop_factory()) as loop:
            return loop.run(_command(args))
    except (InfraFailure, ServiceError, StreamError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        print_error(error)
        return EXIT_REFUSED if isinstance(error, Refused) else 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(exit_on_config_error(main))
