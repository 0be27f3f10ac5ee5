"""`python -m arlarena.trainer tiny|clone|train|replay`: create, clone or train a policy, or replay recorded groups."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arlarena.proto.atomic_files import write_json
from arlarena.proto.config import (
    ConfigError,
    exit_on_config_error,
    load_part,
    load_table,
    parse_assignment,
    print_error,
)
from arlarena.proto.env_api import Info
from arlarena.proto.http.addresses import service_url
from arlarena.proto.shared_settings import EnvironmentKeys, RunSettings
from arlarena.proto.telemetry import Logger, get_logger
from arlarena.proto.text.usage_name import program
from arlarena.proto.text.wording import printable
from arlarena.trainer.output import atomic_folder, check_output
from arlarena.trainer.policy_settings import PolicySettings
from arlarena.trainer.preflight import (
    check_length,
    check_readable,
    check_transport,
    check_writable,
    context_of,
    policy_directory,
)
from arlarena.trainer.settings import (
    CloneSettings,
    TrainerSettings,
    chosen_seed,
    environment_url,
    load_trainer,
    redis_url,
)

if TYPE_CHECKING:
    from arlarena.trainer.objectives import Recipe

EXIT_FAILED = 1
# Exit code for errors that would also occur after a restart. The launcher then does not restart the trainer.
EXIT_PERMANENT = 4


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m arlarena.trainer", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    tiny = _command(commands, "tiny", "create a tiny policy with its own tokenizer")
    tiny.add_argument("--config", type=Path, help="TOML file of the run; its table [policy.tiny] is used")
    tiny.add_argument("--out", type=Path, required=True, help="directory to write")
    tiny.add_argument(
        "--environment-url",
        help="URL of the environment server (default: ARLARENA_ENVIRONMENT_URL); the server lists the texts that "
        "become one token each; without a server, the tokens are the words of [policy.tiny] and single characters",
    )
    tiny.add_argument("--seed", type=int, help="seed of the weights (default: ARLARENA_SEED, else [run] seed)")
    _add_clone(_command(commands, "clone", "behaviour cloning from recorded demonstrations"))
    _add_train(_command(commands, "train", "reinforcement learning from groups on the stream"))
    _add_replay(_command(commands, "replay", "loss and metrics of methods on recorded groups, without training"))
    return parser


def _command(commands: Any, name: str, summary: str) -> argparse.ArgumentParser:
    description = summary[0].upper() + summary[1:] + "."
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=description, prog=program(f"arlarena.trainer {name}")
    )
    return parser


def _add_clone(cloning: argparse.ArgumentParser) -> None:
    cloning.add_argument("--config", type=Path, required=True, help="TOML file of the run, with the table [clone]")
    cloning.add_argument("--model", required=True, help="policy to start from: a directory or a hub name")
    cloning.add_argument(
        "--demonstrations", type=Path, required=True, help="file of recorded groups, or of conversations (.jsonl)"
    )
    cloning.add_argument(
        "--validation",
        type=Path,
        required=True,
        help="validation file, in the same formats as --demonstrations; cloning stops when the loss on this file no "
        "longer improves",
    )
    cloning.add_argument("--run-dir", type=Path, required=True, help="directory for progress and clone.json")
    cloning.add_argument("--out", type=Path, required=True, help="directory for the cloned policy")
    cloning.add_argument("--seed", type=int, help="seed of the batch order (default: ARLARENA_SEED, else [run] seed)")


def _add_train(train: argparse.ArgumentParser) -> None:
    train.add_argument("--config", type=Path, required=True, help="TOML file of the run, with the table [trainer]")
    policy = "policy to start from, a directory or a hub name; also the reference policy of the KL term"
    train.add_argument("--model", required=True, help=policy)
    train.add_argument("--run-dir", type=Path, required=True, help="directory for metrics, checkpoints and weights")
    train.add_argument("--run-name", help="name of the run in the keys of the Redis streams (default: [run] name)")
    train.add_argument(
        "--redis-url",
        help="URL of the Redis broker, for example redis://127.0.0.1:6379/0 (default: ARLARENA_REDIS_URL); give the "
        "password in the environment variable REDIS_PASSWORD, or in the file that REDIS_PASSWORD_FILE names",
    )
    train.add_argument(
        "--inference-url",
        action="append",
        default=[],
        help="URL of a policy server that gets new weights; may be given several times; default: the trainer only "
        "writes the weights to RUN/weights",
    )
    train.add_argument(
        "--environment-url",
        help="URL of the environment server (default: ARLARENA_ENVIRONMENT_URL); the server reports the number of "
        "tasks in [trainer] task_split; without a server, this split counts as endless",
    )
    _add_plugin(train)
    train.add_argument("--resume", action="store_true", help="continue from the newest checkpoint, if there is one")
    train.add_argument("--seed", type=int, help="seed of tasks and batches (default: ARLARENA_SEED, else [run] seed)")


def _add_replay(replaying: argparse.ArgumentParser) -> None:
    replaying.add_argument(
        "groups", type=Path, help="file of RUN/groups or RUN/records, such as RUN/groups/step-000020.msgpack"
    )
    replaying.add_argument(
        "--check", action="store_true",
        help="compute the recorded figures of the first update again, and print the largest differences; GROUPS must "
        "be a file such as RUN/records/step-000020.records, and --model must be the weights before this step",
    )  # fmt: skip
    replaying.add_argument("--model", required=True, help="policy that computes log-probs: a directory or a hub name")
    replaying.add_argument(
        "--recipe", action="append", help="method to use; may be given several times (default: [trainer] recipe)"
    )
    replaying.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="CHOICE=VALUE",
        help="set a choice or hyperparameter of all methods in the table; may be given several times",
    )
    _add_plugin(replaying)
    replaying.add_argument("--config", type=Path, help="TOML file of the run, with the table [trainer]")
    replaying.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _add_plugin(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE",
        help="Python module that registers recipes, clips, advantages or filters; loaded in addition to [trainer] "
        "plugins; may be given several times",
    )


def _settings(args: argparse.Namespace) -> TrainerSettings:
    """Load the table `[trainer]`, and add the plugins of the command line."""
    settings = load_trainer(args.config)
    return settings.model_copy(update={"plugins": (*settings.plugins, *args.plugin)})


def make_tiny(args: argparse.Namespace, log: Logger) -> int:
    """Run the subcommand `tiny`. Returns the exit code."""
    shape = load_table(args.config, "policy", PolicySettings).tiny
    check_output(args.out)
    check_writable(args.out.parent)
    from arlarena.client.errors import ServiceError
    from arlarena.trainer.model.tiny import create_tiny_policy, pieces_of

    try:
        info = _environment_of(args, log)
    except ServiceError as error:
        return _report_failure(log, error)
    pieces = pieces_of(info, shape.words)
    parameters = create_tiny_policy(args.out, shape, chosen_seed(args.seed, args.config), pieces)
    log.info("tiny_policy", directory=str(args.out), parameters=parameters, pieces=len(pieces))
    return 0


def _environment_of(args: argparse.Namespace, log: Logger) -> Info | None:
    """Return the description of the environment, including the vocabulary for a tiny policy.

    Returns None if no address of an environment server is given.

    Raises:
        ConfigError: the address is invalid, or the server's environment differs from `[environment] name`.
        ServiceError: the server does not answer within `[trainer] service_wait_s`.
    """
    from arlarena.trainer.state.tasks import environment_info

    address = args.environment_url or environment_url()
    if not address:
        log.warning(
            "no_environment_server",
            reason="the vocabulary lacks the texts of the environment",
            fix="give --environment-url",
        )
        return None
    name = load_part(args.config, "environment", EnvironmentKeys, "name").name or None
    wait_s = load_trainer(args.config).service_wait_s
    return asyncio.run(environment_info(_address("--environment-url", address), name, wait_s, log))


def run_clone(args: argparse.Namespace, log: Logger) -> int:
    """Run the subcommand `clone`. Returns the exit code."""
    settings = load_table(args.config, "clone", CloneSettings)
    seed, source = chosen_seed(args.seed, args.config), policy_directory(args.model, "--model")
    inputs = {"--demonstrations": args.demonstrations, "--validation": args.validation}
    for path in inputs.values():
        check_readable(path)
    check_output(
        args.out, apart={"--model": source}, outside=inputs | {"--run-dir": args.run_dir, "--config": args.config}
    )
    for folder in (args.run_dir, args.out.parent):
        check_writable(folder)
    import torch

    from arlarena.trainer.cloning.clone import CloneError, clone, read_rows
    from arlarena.trainer.metrics.progress import Progress
    from arlarena.trainer.model.policy import load_policy
    from arlarena.trainer.weights.versions import copy_tokenizer

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(seed)
    train = read_rows(args.demonstrations, settings.min_score, str(source))
    validation = read_rows(args.validation, settings.min_score, str(source))
    model = load_policy(source)
    steps = settings.max_epochs * max(1, len(train) // settings.batch_rows)
    progress = Progress(args.run_dir, "clone", steps)
    try:
        result = clone(model, train, validation, settings, seed=seed, progress=progress, log=log)
    except CloneError as error:  # a restart with the same seed would fail in the same way
        return _report_failure(log, error, EXIT_PERMANENT)
    with atomic_folder(args.out, {"kind": "clone", "model": args.model, "seed": seed}) as folder:
        model.save_pretrained(folder)
        copy_tokenizer(source, folder)
    write_json(args.run_dir / "clone.json", result.as_dict())
    log.info("cloned", directory=str(args.out), **result.as_dict())
    return 0


def run_train(args: argparse.Namespace, log: Logger) -> int:
    """Run the subcommand `train`. Returns the exit code."""
    settings = _settings(args)
    run_name = args.run_name or load_table(args.config, "run", RunSettings).name
    environment = load_part(args.config, "environment", EnvironmentKeys, "name").name
    model = policy_directory(args.model, "--model")
    if "max_response_tokens" in settings.model_fields_set:
        check_length("[trainer] max_response_tokens", settings.max_response_tokens, context_of(model))
    check_transport(settings)
    address = args.environment_url or environment_url()
    environment_at = _address("--environment-url", address) if address else None
    inference_at = tuple(_address("--inference-url", url) for url in args.inference_url)
    broker = redis_url(args.redis_url)
    check_writable(args.run_dir)
    from arlarena.client.errors import Refused, ServiceError
    from arlarena.client.weights import PushError
    from arlarena.proto.streams.queue import StreamError
    from arlarena.trainer.assembly import Invocation, run_trainer
    from arlarena.trainer.collector import Interrupted, RunError
    from arlarena.trainer.state.checkpoint import CheckpointError
    from arlarena.trainer.weights.push import is_permanent

    plan = Invocation(
        settings=settings,
        model=str(model),
        run_dir=args.run_dir,
        run_name=run_name,
        redis_url=broker,
        inference_urls=inference_at,
        environment=environment,
        environment_url=environment_at,
        seed=chosen_seed(args.seed, args.config),
        incarnation=uuid.uuid4().hex[:8],
        resume=args.resume,
    )
    stop: list[int] = []
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda number, _frame: stop.append(number))
    try:
        asyncio.run(run_trainer(plan, log, interrupted=lambda: signal.Signals(stop[0]).name if stop else ""))
    except Interrupted as interrupted:
        log.info("stopped", signal=str(interrupted))
        return 128 + stop[0]
    except (RunError, StreamError, CheckpointError, PushError, ServiceError, OSError) as error:
        permanent = (
            isinstance(error, CheckpointError | Refused)
            or (isinstance(error, PushError) and is_permanent(error))
            or (isinstance(error, RunError) and error.permanent)
        )
        return _report_failure(log, error, EXIT_PERMANENT if permanent else EXIT_FAILED)
    return 0


def _address(flag: str, url: str) -> str:
    try:
        return service_url(url)
    except ValueError as error:
        raise ConfigError(f"{flag}: {error}") from error


def _report_failure(log: Logger, error: Exception, code: int = EXIT_FAILED) -> int:
    if "No space left on device" in str(error):  # the text is searched, because errors of safetensors have no errno
        error = OSError(f"the disk is full: free space, then run again with --resume ({error})")
    log.error("failed", reason=str(error))
    print_error(error)
    return code


def run_replay(args: argparse.Namespace, _log: Logger) -> int:
    """Run the subcommand `replay`. Returns the exit code."""
    settings = _settings(args)
    overrides = dict(parse_assignment(text, "CHOICE=VALUE, for example clip_low=0.03") for text in args.set)
    names = args.recipe or [settings.recipe]
    import torch

    from arlarena.trainer.objectives import RecipeError, load_plugins, recipe
    from arlarena.trainer.replay import load_groups, replay, table

    try:
        load_plugins(settings.plugins)
        given = settings.recipe_overrides
        methods = [recipe(name, **(given if name == settings.recipe else {}) | overrides) for name in names]
    except RecipeError as error:
        raise ConfigError(str(error)) from error
    torch.manual_seed(0)
    model = str(policy_directory(args.model, "--model"))
    if args.check:
        return _check_records(args, model, methods[0], settings)
    groups = load_groups(args.groups)
    results = [replay(groups, model, method, settings) for method in methods]
    as_json = json.dumps([result.as_dict() for result in results], indent=1, allow_nan=False) if args.json else ""
    print(as_json or printable(table(results)))
    return 0


def _check_records(args: argparse.Namespace, model: str, method: Recipe, settings: TrainerSettings) -> int:
    from arlarena.trainer.check_records import check_records, load_records

    head, records = load_records(args.groups)
    result = check_records(records, model, method, settings)
    if args.json:
        print(json.dumps({"step": head.step} | asdict(result), indent=1))
        return 0
    print(f"step {head.step}: {result.groups} groups, {result.tokens} tokens of the first update; largest differences:")
    for name, difference in result.differences.items():
        print(f"{name:<22}{difference:.3g}")
    print(f"{'clip marks and masks':<22}{result.marks} differ")
    return 0


def main() -> int:
    """Run the command. Returns the exit code."""
    args = _parser().parse_args()
    if os.environ.get("OMP_NUM_THREADS") is None:
        os.environ["OMP_NUM_THREADS"] = "1"  # must be set before torch is imported; [trainer] threads overrides it
    os.environ.setdefault(
        "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
    )  # needed by [trainer] deterministic; must be set before CUDA starts
    log = get_logger("trainer")
    commands = {"tiny": make_tiny, "clone": run_clone, "train": run_train, "replay": run_replay}
    return commands[args.command](args, log)


if __name__ == "__main__":
    sys.exit(exit_on_config_error(main))
