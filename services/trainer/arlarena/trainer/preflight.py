"""Checks of a run's file before anything starts: settings against each other, against the policy's files, and against
this machine.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from arlarena.proto.config import ConfigError, load_part, load_table
from arlarena.proto.shared_settings import ConsoleKeys, EvaluationKeys, Gpus, InferenceKeys, RunSettings
from arlarena.proto.text.wording import counted
from arlarena.proto.versions.hub import local_model, missing_files
from arlarena.trainer.policy_settings import PolicySettings
from arlarena.trainer.settings import CloneSettings, TrainerSettings, chosen_recipe

# Prompt and response together where `[inference] max_model_len` does not say; as the policy server has it.
DEFAULT_CONTEXT = 4096
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")

Result = TypeVar("Result")


def check_file(path: Path, *, machine: bool = False) -> None:
    """Validate every table that the trainer reads, the recipe included. `machine`: also whether the policy's files are
    here, and whether this machine has the GPUs that the file asks for.

    Raises:
        ConfigError: everything that is wrong, one line each.
    """
    found = _Problems()
    found.of(lambda: load_table(path, "run", RunSettings))
    policy = found.of(lambda: load_table(path, "policy", PolicySettings))
    settings = found.of(lambda: load_table(path, "trainer", TrainerSettings))
    cloning = found.of(lambda: load_table(path, "clone", CloneSettings))
    if settings is not None:
        found.of(lambda: chosen_recipe(settings, f"{path}: "))
        found.of(settings.torch_device)
        if machine:
            found.of(lambda: check_transport(settings))
    else:  # a wrong number does not hide a wrong method
        found.of(lambda: _check_method(path))
    if cloning is not None:
        found.of(cloning.torch_device)
    if machine:
        found.of(lambda: check_gpus(load_part(path, "console", ConsoleKeys).gpus))
    if policy is not None and (machine or policy.path is None):
        found.of(lambda: _check_policy(path, policy, settings))
    found.raise_all()


def _check_method(path: Path) -> None:
    """Whether the method exists and has the choices that the file changes, whatever else is wrong with the table.

    Raises:
        ConfigError: it does not.
    """
    from arlarena.trainer.objectives import RecipeError, load_plugins, recipe  # imports torch

    chosen = load_part(path, "trainer", TrainerSettings, "recipe", "recipe_overrides", "plugins")
    try:
        load_plugins(chosen.plugins)
        recipe(chosen.recipe, **chosen.recipe_overrides)
    except RecipeError as error:
        raise ConfigError(f"{path}: [trainer] {error}") from error


class _Problems:
    """Collects what several checks object to."""

    def __init__(self) -> None:
        self._found: list[str] = []

    def of(self, check: Callable[[], Result]) -> Result | None:
        try:
            return check()
        except ConfigError as error:
            self._found.append(str(error))
            return None

    def raise_all(self) -> None:
        if self._found:
            raise ConfigError("\n".join(dict.fromkeys(self._found)))


def check_transport(settings: TrainerSettings) -> None:
    """Whether this machine can send weights as `push_transport` says.

    Raises:
        ConfigError: nccl without a GPU.
    """
    if settings.push_transport == "nccl" and settings.torch_device() == "cpu":
        raise ConfigError(
            '[trainer] push_transport = "nccl" needs a GPU, and the trainer computes on the CPU here; "gloo" does the '
            'same between CPUs, "shared" and "http" work everywhere'
        )


def check_gpus(gpus: Gpus) -> None:
    """Whether the GPUs of `[console.gpus]` exist.

    Raises:
        ConfigError: torch sees fewer.
    """
    import torch

    count = torch.cuda.device_count()
    for name in Gpus.model_fields:
        numbers: tuple[int, ...] = getattr(gpus, name)
        if numbers and max(numbers) >= count:
            raise ConfigError(
                f"[console.gpus] {name} = {list(numbers)}: torch sees {counted(count, 'GPU')} here; name those below "
                f"{count}, or leave {name} out"
            )


def _check_policy(path: Path, policy: PolicySettings, settings: TrainerSettings | None) -> None:
    """The policy's files, and whether responses fit its context; `settings`: None where they are wrong themselves.

    Raises:
        ConfigError: a file is missing, or a length is too large; the message names it.
    """
    positions: int | None = policy.tiny.max_positions
    if policy.path is not None:
        folder = policy_directory(policy.path, f"{path}: [policy] path", tokenizer=policy.tokenizer is None)
        positions = context_of(folder)
    served = load_part(path, "inference", InferenceKeys, "max_model_len").max_model_len
    evaluated = load_part(path, "evaluation", EvaluationKeys, "max_tokens")
    found = _Problems()
    # The default gets what room there is.
    if settings is not None and "max_response_tokens" in settings.model_fields_set:
        key, tokens = f"{path}: [trainer] max_response_tokens", settings.max_response_tokens
        found.of(partial(check_length, key, tokens, positions, served))
    if "max_tokens" in evaluated.model_fields_set:
        found.of(partial(check_length, f"{path}: [evaluation] max_tokens", evaluated.max_tokens, positions, served))
    found.raise_all()


def policy_directory(name: str, setting: str, *, tokenizer: bool = True) -> Path:
    """The local directory of a policy that is given as a directory or as a name on the Hub, with all its files.

    `setting`: where the name comes from, which begins the message of an error. `tokenizer`: whether it must have one.

    Raises:
        ConfigError: there is none, or it lacks configuration, weights or tokenizer.
    """
    try:
        folder = local_model(name)
    except ConfigError as error:
        raise ConfigError(f"{setting}: {error}") from error
    lacking = missing_files(folder)
    if tokenizer and not any((folder / file).is_file() for file in TOKENIZERS):
        lacking.append("a tokenizer (tokenizer.json)")
    if lacking:
        raise ConfigError(
            f"{setting} = {name!r}: {folder} is no whole policy, it lacks {', '.join(lacking)}; give a directory as "
            f"save_pretrained of model and tokenizer writes it"
        )
    return folder


def context_of(folder: Path) -> int | None:
    """How many positions the policy in `folder` has; None where its config.json does not say.

    Raises:
        ConfigError: config.json cannot be read.
    """
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
        positions = config.get("max_position_embeddings") or config.get("text_config", {}).get(
            "max_position_embeddings"
        )
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"policy {folder}: config.json cannot be read: {error}") from error
    return int(positions) if isinstance(positions, int) else None


def check_length(setting: str, tokens: int, positions: int | None, served: int | None = None) -> None:
    """Whether a response of `tokens` leaves room for a prompt. `positions`: of the policy. `served`: `max_model_len`.

    Raises:
        ConfigError: it does not; the message names the bound.
    """
    if served is not None and positions is not None and served > positions:
        raise ConfigError(
            f"[inference] max_model_len = {served}: the policy has {positions} positions; set it to that or less"
        )
    bound = served if served is not None else min(positions or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    if tokens >= bound:
        what = "[inference] max_model_len" if served is not None or bound != positions else "the policy's context"
        raise ConfigError(
            f"{setting} = {tokens} leaves no room for a prompt: {what} is {bound} tokens for prompt and "
            f"response together; set {setting.rpartition('] ')[2]} well below that, or raise the context"
        )


def check_writable(folder: Path) -> None:
    """Make `folder` and see whether files can be written there.

    Raises:
        ConfigError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"directory {folder} cannot be written: {error.strerror}; choose another") from error


def check_readable(path: Path) -> None:
    """See whether a file of demonstrations can be read.

    Raises:
        ConfigError: it cannot.
    """
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise ConfigError(f"demonstrations {path} cannot be read: {(error.strerror or str(error)).lower()}") from error
