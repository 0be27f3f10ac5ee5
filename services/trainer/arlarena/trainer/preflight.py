"""Checks a configuration file before a run starts: the settings, the policy's files, and this machine."""

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
from arlarena.trainer.settings import CloneSettings, TrainerSettings, load_recipe, load_trainer

# The largest length of prompt and response together, in tokens, if `[inference] max_model_len` is not set. This is also
# the default of the policy server.
DEFAULT_CONTEXT = 4096
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")

Result = TypeVar("Result")


def check_file(path: Path, *, machine: bool = False) -> None:
    """Check the recipe, and all tables of the configuration file that the trainer reads.

    `machine`: also check the files of the policy, the GPUs of `[console.gpus]`, and `push_transport` on this machine.

    Raises:
        ConfigError: a check failed. The message lists all errors, one per line.
    """
    errors = _ErrorCollector()
    errors.run(lambda: load_table(path, "run", RunSettings))
    policy = errors.run(lambda: load_table(path, "policy", PolicySettings))
    settings = errors.run(lambda: load_trainer(path))
    cloning = errors.run(lambda: load_table(path, "clone", CloneSettings))
    if settings is not None:
        errors.run(lambda: load_recipe(settings, f"{path}: "))
        errors.run(settings.torch_device)
        if machine:
            errors.run(lambda: check_transport(settings))
    else:  # report errors of the recipe even if another setting is wrong
        errors.run(lambda: _check_method(path))
    if cloning is not None:
        errors.run(cloning.torch_device)
    if machine:
        errors.run(lambda: check_gpus(load_part(path, "console", ConsoleKeys).gpus))
    if policy is not None and (machine or policy.path is None):
        errors.run(lambda: _check_policy(path, policy, settings))
    errors.raise_all()


def _check_method(path: Path) -> None:
    """Check only the keys `recipe`, `recipe_overrides` and `plugins` of the table `[trainer]`.

    Raises:
        ConfigError: a plugin cannot be loaded, the recipe does not exist, or a key or value of `recipe_overrides` is
            wrong.
    """
    from arlarena.trainer.objectives import RecipeError, load_plugins, recipe  # imports torch

    chosen = load_part(path, "trainer", TrainerSettings, "recipe", "recipe_overrides", "plugins")
    try:
        load_plugins(chosen.plugins)
        recipe(chosen.recipe, **chosen.recipe_overrides)
    except RecipeError as error:
        raise ConfigError(f"{path}: [trainer] {error}") from error


class _ErrorCollector:
    """Collects the errors of several checks."""

    def __init__(self) -> None:
        self._errors: list[str] = []

    def run(self, check: Callable[[], Result]) -> Result | None:
        try:
            return check()
        except ConfigError as error:
            self._errors.append(str(error))
            return None

    def raise_all(self) -> None:
        if self._errors:
            raise ConfigError("\n".join(dict.fromkeys(self._errors)))


def check_transport(settings: TrainerSettings) -> None:
    """Check that this machine supports `push_transport`.

    Raises:
        ConfigError: `push_transport` is "nccl", but there is no GPU.
    """
    if settings.push_transport == "nccl" and settings.torch_device() == "cpu":
        raise ConfigError(
            '[trainer] push_transport = "nccl" needs a GPU, but the trainer uses the CPU: use "gloo", "shared" or '
            '"http"'
        )


def check_gpus(gpus: Gpus) -> None:
    """Check that the GPUs of `[console.gpus]` exist.

    Raises:
        ConfigError: torch does not see one of these GPUs.
    """
    import torch

    count = torch.cuda.device_count()
    for name in Gpus.model_fields:
        numbers: tuple[int, ...] = getattr(gpus, name)
        if numbers and max(numbers) >= count:
            raise ConfigError(
                f"[console.gpus] {name} = {list(numbers)}: torch sees {counted(count, 'GPU')}; use numbers below "
                f"{count}, or leave {name} out"
            )


def _check_policy(path: Path, policy: PolicySettings, settings: TrainerSettings | None) -> None:
    """Check the files of the policy, and check that responses fit the context of the policy.

    `settings`: the table `[trainer]`; None: the table is invalid, so the length of training responses is not checked.

    Raises:
        ConfigError: a file is missing, or a length in the configuration file is too large.
    """
    positions: int | None = policy.tiny.max_positions
    if policy.path is not None:
        folder = policy_directory(policy.path, f"{path}: [policy] path", tokenizer=policy.tokenizer is None)
        positions = context_of(folder)
    served = load_part(path, "inference", InferenceKeys, "max_model_len").max_model_len
    evaluated = load_part(path, "evaluation", EvaluationKeys, "max_tokens")
    errors = _ErrorCollector()
    # Only lengths that the configuration file sets are checked, because default lengths adapt to the context.
    if settings is not None and "max_response_tokens" in settings.model_fields_set:
        key, tokens = f"{path}: [trainer] max_response_tokens", settings.max_response_tokens
        errors.run(partial(check_length, key, tokens, positions, served))
    if "max_tokens" in evaluated.model_fields_set:
        errors.run(partial(check_length, f"{path}: [evaluation] max_tokens", evaluated.max_tokens, positions, served))
    errors.raise_all()


def policy_directory(name: str, setting: str, *, tokenizer: bool = True) -> Path:
    """Return the local directory of a policy, and check that the directory is complete.

    `name`: a directory or a Hub name. `setting`: the command-line option or setting with this name, for error messages.
    `tokenizer`: whether the directory must have a tokenizer.

    Raises:
        ConfigError: the directory does not exist, or lacks configuration, weights or tokenizer.
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
            f"{setting} = {name!r}: {folder} is not a complete policy: it lacks {', '.join(lacking)}; give a directory "
            f"in which save_pretrained wrote the model and the tokenizer"
        )
    return folder


def context_of(folder: Path) -> int | None:
    """Return the context length of the policy in `folder`, in tokens; None if config.json does not contain the length.

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
    """Check that a response of `tokens` tokens leaves room for a prompt.

    `setting`: the setting with the value `tokens`, for error messages. `positions`: the context length of the policy in
    tokens; None: unknown. `served`: the setting `[inference] max_model_len`; None: not set.

    Raises:
        ConfigError: there is no room for a prompt, or `served` is above `positions`.
    """
    if served is not None and positions is not None and served > positions:
        raise ConfigError(
            f"[inference] max_model_len = {served}: the policy has only {positions} positions; set max_model_len to "
            f"{positions} or less"
        )
    bound = served if served is not None else min(positions or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    if tokens >= bound:
        source = "[inference] max_model_len" if served is not None or bound != positions else "the policy's context"
        raise ConfigError(
            f"{setting} = {tokens} leaves no room for a prompt: {source} is {bound} tokens for prompt and "
            f"response together; either set {setting.rpartition('] ')[2]} well below {bound}, or raise this limit"
        )


def check_writable(folder: Path) -> None:
    """Create `folder` and check that files can be written in it.

    Raises:
        ConfigError: the folder or a file in it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"directory {folder} cannot be written: {error.strerror}; choose another directory"
        ) from error


def check_readable(path: Path) -> None:
    """Check that a file of demonstrations can be read.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise ConfigError(f"demonstrations {path} cannot be read: {(error.strerror or str(error)).lower()}") from error
