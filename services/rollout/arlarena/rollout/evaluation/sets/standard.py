"""Standard evaluation sets: loads `sets.toml`, and checks a server's tasks before the first request to a model.

    standard = find_set("sokoban-v1")
    checked = await check_set(runner, standard)      # raises SetMismatch with the cause
    checked.pin.digest, checked.pin.official

A set's name always means the same tasks. Free options do not change the tasks or the effects of actions (see
`FREE_OPTIONS`): for example the prompt template, the history, or the form of the observation. All other options must
have the set's values.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import msgspec

from arlarena.proto.env_api import Info
from arlarena.proto.text.names import known_names
from arlarena.proto.text.wording import counted
from arlarena.proto.trajectory import Task
from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.records import EnvironmentPlan
from arlarena.rollout.evaluation.served import reset_tasks
from arlarena.rollout.evaluation.sets.digest import tasks_digest
from arlarena.rollout.runner import Runner

DEFINITIONS, PINS = "sets.toml", "pinned.json"
# 128 bits, because nobody must be able to find other tasks with a published digest. Against mistakes, 64 bits suffice.
DIGEST_BYTES = 16
# Free options, by environment. They only change the prompt, the expert, the number of available tasks, or the load on
# the machine.
FREE_OPTIONS: Mapping[str, frozenset[str]] = {
    "sokoban": frozenset({"observation", "frames", "template", "history", "expert_think", "curriculum", "panel_size"}),
    "alfworld": frozenset({"history", "template", "expert_think", "backend"}),
    "webshop": frozenset({"history", "template", "expert_think", "observation"}),
    "tir_math": frozenset(
        {"template", "expert_direct", "stop_after_program", "sandbox.max_running", "sandbox.max_waiting"}
        | {"validation_share"}
    ),
}


class SetMismatch(EvaluationError):
    """The server does not play the tasks of the standard set. The message names the cause."""


class StandardSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A set in `sets.toml`. The comment at the start of that file describes the fields. `name`: name of its table."""

    environment: str
    description: str
    split: str
    first: int
    count: int
    seed: int = 0
    options: dict[str, Any] = {}
    needs: str = ""
    given: tuple[str, ...] = ()
    name: str = ""

    @property
    def indices(self) -> tuple[int, ...]:
        """The indices of the tasks in their split."""
        return tuple(range(self.first, self.first + self.count))

    @property
    def tasks(self) -> list[Task]:
        """The tasks, with the seed of their resets."""
        return [Task(self.environment, self.split, index, self.seed) for index in self.indices]


class Pin(msgspec.Struct, frozen=True):
    """The entry of a set in `pinned.json`.

    Attributes:
        version: the version of the environment.
        options: values of all options except free options and paths, by dotted name.
        official: `data.official` of `/v1/info`: True if published results use these tasks; None if `data` is missing.
        digest: `tasks_digest` of the tasks, 32 hex digits.
    """

    version: str
    options: dict[str, Any]
    official: bool | None
    digest: str


@dataclass(frozen=True, slots=True)
class CheckedSet:
    """The result of resetting all tasks of a set.

    Attributes:
        pin: the pin of the served tasks. `check_set` ensures that its digest is the published digest.
        keys: content key of each task, by task id.
        info: the description of the environment.
    """

    pin: Pin
    keys: dict[str, str]
    info: Info


def _read(name: str) -> bytes:
    return (files(__package__) / name).read_bytes()


def standard_sets() -> dict[str, StandardSet]:
    """Returns all standard sets by name."""
    tables = tomllib.loads(_read(DEFINITIONS).decode())
    return {name: msgspec.convert({**table, "name": name}, StandardSet) for name, table in tables.items()}


def published_pins() -> dict[str, Pin]:
    """Returns the pins of all sets with a published digest, by name."""
    return msgspec.json.decode(_read(PINS), type=dict[str, Pin])


def find_set(name: str) -> StandardSet:
    """Returns the standard set `name`.

    Raises:
        EvaluationError: there is no such set. The message names the most similar sets.
    """
    sets = standard_sets()
    if name not in sets:
        raise EvaluationError(f"--set {name}: there is no such standard set; {known_names(name, sets)}")
    return sets[name]


def flat_options(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the options without nested tables, under dotted names such as `sandbox.wall_s`. Tuples become lists."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping) and value:
            flat |= flat_options(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return flat


def pinned_options(standard: StandardSet, info: Info) -> dict[str, Any]:
    """Returns the options that define the tasks and the rules: all options except free options and paths."""
    left_out = {*FREE_OPTIONS.get(standard.environment, ()), *standard.given, *info.paths}
    left_out |= {name.removesuffix(".*") for name in info.paths}
    return {
        name: value
        for name, value in flat_options(info.options).items()
        if name not in left_out and name.partition(".")[0] not in left_out
    }


async def play_set(runner: Runner, standard: StandardSet) -> CheckedSet:
    """Reset every task of the set on the server. Returns the result, without comparing it with the published pin.

    Raises:
        SetMismatch: the server plays another environment, lacks the split, or has too few tasks.
        EvaluationError: a reset failed, a task has no content key, or two tasks have the same id.
        InfraFailure, ServiceError: the server is unavailable, or refuses a request.
    """
    info = await runner.environments.info()
    if info.name != standard.environment:
        raise SetMismatch(
            f"set {standard.name} is for {standard.environment}, but {runner.environments.url} plays {info.name}"
        )
    split = next((split for split in info.splits if split.name == standard.split), None)
    last = standard.first + standard.count
    if split is None or (split.size is not None and split.size < last):
        found = f"no {standard.split} split" if split is None else f"only {counted(split.size or 0, 'task')}"
        raise SetMismatch(
            f"{_other_data(standard, info)}: {standard.split} split must have at least {counted(last, 'task')}, "
            f"but the server has {found}"
        )
    episodes = await reset_tasks(runner, standard.tasks)
    keys = {episode.first.metadata.task_id: episode.first.metadata.content_key for episode in episodes}
    if without := [task_id for task_id, key in keys.items() if not key]:
        raise EvaluationError(
            f"set {standard.name}: {without[0]} has no content key, so its content cannot be compared"
        )
    if len(keys) < standard.count:
        number = standard.count - len(keys)
        repeated = f"{counted(number, 'task')} {'has' if number == 1 else 'have'}"
        raise EvaluationError(f"set {standard.name}: {repeated} the same id as another task of the set")
    official = None if info.data is None else info.data.official
    digest = tasks_digest(keys.items(), digest_bytes=DIGEST_BYTES)
    return CheckedSet(Pin(info.version, pinned_options(standard, info), official, digest), keys, info)


async def check_set(runner: Runner, standard: StandardSet, pins: Mapping[str, Pin] | None = None) -> CheckedSet:
    """Check that the server plays the tasks of the set. Versions and options are compared before tasks are reset.

    `pins`: the published pins. None: the pins in `pinned.json`.

    Raises:
        SetMismatch: the environment, its version, an option, or the data are not those of the set. The message names
            the difference.
        EvaluationError: the set has no published digest, a reset failed, a task has no content key, or two tasks have
            the same id.
        InfraFailure, ServiceError: the server is unavailable, or refuses a request.
    """
    pin = (published_pins() if pins is None else pins).get(standard.name)
    if pin is None:
        needs = f"; it needs {standard.needs}" if standard.needs else ""
        raise EvaluationError(
            f"set {standard.name} has no published digest, so its tasks cannot be checked{needs}. On a machine with "
            f"the data, `python -m scripts.evaluation_sets --set {standard.name}` computes the digest"
        )
    info = await runner.environments.info()
    if info.name == standard.environment:
        _compare_settings(standard, pin, info)
    played = await play_set(runner, standard)
    if played.pin.digest != pin.digest:
        raise SetMismatch(
            f"{_other_data(standard, info)}: the digest of its {standard.count} tasks is {played.pin.digest} "
            f"instead of {pin.digest}, although version {info.version} and the options are those of the set"
        )
    return played


def _compare_settings(standard: StandardSet, pin: Pin, info: Info) -> None:
    """Compare the server's options, kind of data and version with the pin, in this order.

    Options are compared first, because the version of some environments depends on options.

    Raises:
        SetMismatch: one of them differs from the pin.
    """
    served = pinned_options(standard, info)
    wrong = [
        f"{name} = {served.get(name)!r} instead of {pin.options.get(name)!r}"
        for name in sorted(served.keys() | pin.options.keys())
        if name not in served or name not in pin.options or served[name] != pin.options[name]
    ]
    if wrong:
        raise SetMismatch(f"set {standard.name}: the server has other options: {'; '.join(wrong)}")
    official = None if info.data is None else info.data.official
    if official != pin.official:
        raise SetMismatch(f"{_other_data(standard, info)}: official = {official} instead of {pin.official}")
    if info.version != pin.version:
        raise SetMismatch(
            f"set {standard.name}: other environment version: the server has {info.name} {info.version}, but the set "
            f"is for {pin.version}; either install the release with {pin.version}, or choose a set for {info.version}"
        )


def _other_data(standard: StandardSet, info: Info) -> str:
    played = f" ({info.data.description})" if info.data else ""
    needs = f", needs {standard.needs}" if standard.needs else ""
    return f"set {standard.name}: other data{played}{needs}"


def set_options(standard: StandardSet, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options for a server that plays the set. `given`: the user's free options and paths.

    Raises:
        EvaluationError: `given` changes an option of the set.
    """
    free = {*FREE_OPTIONS.get(standard.environment, ()), *standard.given}
    if fixed := sorted(name for name in flat_options(given) if name not in free and name.partition(".")[0] not in free):
        raise EvaluationError(
            f"--set {standard.name} fixes the option {fixed[0]}; the free options are {', '.join(sorted(free))}"
        )
    return {**standard.options, **given}


def environment_plan(standard: StandardSet, checked: CheckedSet, url: str, name: str = "") -> EnvironmentPlan:
    """Returns the plan's entry for a checked set. `name`: unique in the plan; default: the name of the set."""
    info = checked.info
    return EnvironmentPlan(
        name=name or standard.name,
        url=url,
        version=info.version,
        template=f"{info.template.name} {info.template.version}",
        parser=info.parser.version,
        options=info.options,
        split=standard.split,
        indices=standard.indices,
        set=standard.name,
    )


def describe_sets(pins: Mapping[str, Pin], sets: Sequence[StandardSet]) -> str:
    """Returns a Markdown table of the sets with their digests."""
    lines = ["| set | environment | tasks | what | digest |", "|---|---|---|---|---|"]
    for one in sets:
        pin = pins.get(one.name)
        digest = f"`{pin.digest}`" if pin else f"none yet: needs {one.needs}"
        version = f" {pin.version}" if pin else ""
        tasks = f"{one.split} {one.first} to {one.first + one.count - 1}"
        lines.append(f"| `{one.name}` | {one.environment}{version} | {tasks} | {one.description} | {digest} |")
    return "\n".join(lines) + "\n"
