"""Checks the options before any service starts. These checks need no environment."""

from __future__ import annotations

import math
import os
from pathlib import Path

from arlarena.proto.config import ConfigError
from arlarena.proto.text.names import suggestion
from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.models.registry import open_model, vendor_and_name
from arlarena.rollout.evaluation.report.prices import ModelPrice, read_prices
from arlarena.rollout.evaluation.sets.standard import find_set, published_pins
from arlarena.rollout.evaluation.start.checkpoint import is_checkpoint
from arlarena.rollout.evaluation.start.options import EvaluateOptions
from arlarena.rollout.evaluation.start.players import SCRIPTED, check_strategy

# MODEL for the policy server of a checkpoint. The server's name for the model is always `policy`.
POLICY = "compatible/policy"


async def check_options(options: EvaluateOptions, name: str) -> ModelPrice | None:
    """Check the options, and return the model's price. The result is None if the price is unknown.

    `name`: name of the model in records.

    Raises:
        ConfigError: an option is invalid, or options contradict each other.
    """
    _check_directory(options.directory)
    _check_numbers(options)
    options.tasks.check()
    if options.set_name is not None:
        _check_set(options, options.set_name)
    check_strategy(options.model, options.strategy, options.strategy_options)
    await _check_model(options)
    return _price(options, name)


def notes(options: EvaluateOptions) -> list[str]:
    """Return notes about options that are valid but probably a mistake."""
    if options.attempts == 1:
        return []
    same = f"so --attempts {options.attempts} mostly repeats the first attempt"
    if options.model == "expert":
        return [f"note: the expert always plays a task in the same way, {same}"]
    if options.sampling.temperature == 0 and options.model not in SCRIPTED:
        return [f"note: with --temperature 0 the replies to equal prompts hardly differ, {same}"]
    return []


def _check_directory(directory: Path) -> None:
    existing = next(path for path in (directory, *directory.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise ConfigError(f"--out {directory}: {existing} is not a directory; choose another path")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"--out {directory}: {existing} cannot be written; choose another path")


def _check_numbers(options: EvaluateOptions) -> None:
    limits, budgets = options.limits, options.budgets
    numbers = {
        "--temperature": options.sampling.temperature,
        "--top-p": options.sampling.top_p,
        "--requests-per-minute": limits.requests_per_minute,
        "--tokens-per-minute": limits.tokens_per_minute,
        "--max-cost": budgets.money,
        "--max-minutes": budgets.seconds,
    }
    for flag, value in numbers.items():
        if value is not None and not math.isfinite(value):
            raise ConfigError(f"{flag} {value}: must be a finite number")
        if value == 0 and flag.endswith("-per-minute"):
            raise ConfigError(f"{flag} 0: must be above 0; without the option there is no limit")


def _check_set(options: EvaluateOptions, name: str) -> None:
    try:
        standard = find_set(name)
    except EvaluationError as error:
        raise ConfigError(str(error)) from error
    if not options.tasks.is_default or len(options.environments) > 1:
        raise ConfigError(
            f"--set {name} fixes the tasks: leave out --split, --first, --count and --tasks, and give at most one --env"
        )
    if options.seed not in (0, standard.seed):
        raise ConfigError(f"--set {name} has the seed {standard.seed}: leave out --seed")
    if name not in published_pins():
        needs = f" (the set needs {standard.needs})" if standard.needs else ""
        raise ConfigError(
            f"--set {name} has no published digest, so its tasks cannot be checked: either choose another set, or "
            f"compute the digest with `python -m scripts.evaluation_sets --set {name}` on a machine with the data"
            f"{needs}"
        )


async def _check_model(options: EvaluateOptions) -> None:
    """Check MODEL, --base-url, the API key, the SDK, and whether a server listens at --base-url.

    A dry run needs no key, no SDK and no model's server. For a dry run, check only MODEL and the form of --base-url.
    """
    if options.model in SCRIPTED:
        if options.base_url:
            raise ConfigError(f"--base-url is for models; the player {options.model} uses no model")
        return
    text, base_url = options.model, options.base_url
    if is_checkpoint(text):
        if base_url:
            raise ConfigError(
                f"--base-url is for a running server, but {text} is a folder: either leave --base-url out to start a "
                f"server for this checkpoint, or write compatible/{text} if a model at --base-url has this name"
            )
        text, base_url = POLICY, "http://127.0.0.1"
    elif text.startswith((".", "/", "~")) and not base_url:
        raise ConfigError(f"{text}: there is no such folder, so this is not a checkpoint; correct the path")
    elif not base_url and "/" not in text and (hint := suggestion(text, SCRIPTED)):
        raise ConfigError(f"unknown model {text!r}: {hint}")
    if options.dry_run:
        vendor_and_name(text, base_url)
        return
    await open_model(text, base_url=base_url, sees_images=options.images).close()
    if options.base_url:
        await _check_listening(options.base_url)


async def _check_listening(base_url: str) -> None:
    """Check that a server accepts connections at `--base-url`.

    Without this check, an evaluation with a wrong address would retry its requests for a long time.
    """
    # Imported only here, because the module needs the optional dependencies of an SDK.
    from arlarena.rollout.evaluation.models.http import connection_error

    if error := await connection_error(base_url):
        raise ConfigError(
            f"--base-url {base_url}: no server answers ({error}); start the server, or correct the address"
        )


def _price(options: EvaluateOptions, name: str) -> ModelPrice | None:
    try:
        table = read_prices(options.prices)
    except EvaluationError as error:
        raise ConfigError(f"--prices: {error}") from error
    price = table.price(name, options.base_url or "")
    if price is None and options.budgets.money is not None:
        if options.model in SCRIPTED:
            raise ConfigError(f"--max-cost is for models; the player {options.model} costs nothing")
        at = f" at {options.base_url}" if options.base_url else ""
        raise ConfigError(
            f"--max-cost: the price of {name}{at} is not in the price file ({table.origin}): either give --prices FILE "
            "with this price, or use --max-total-tokens instead of --max-cost"
        )
    return price
