"""Checks the contract of environments: the properties that training and evaluation need. The checks need no server.

    python -m arlarena.environment.contract NAME [--options '{"key": "value"}']

NAME is an installed environment, or a module with `load(where, options)`. The exit status is 1 if a check fails. To run
the checks in your own test suite (pytest skips a check that raises `NotApplicable`):

    @pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
    def test_contract(check):
        check(load("test", "my_environment", {}))
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from unittest import SkipTest

from arlarena.environment.protocols import EnvironmentFactory, Episode, ExpertUnavailable
from arlarena.environment.registry import load
from arlarena.proto.config import exit_on_config_error
from arlarena.proto.env_api import ResetSpec, StepResult

TASKS = 4  # most checks play this number of tasks in each split
DISJOINT_TASKS = 40  # `keeps_evaluation_tasks_out_of_training` compares this number of tasks in each split
# Number of episodes in `offers_actions_until_the_end`. In each step, episode n plays `offered[n % len(offered)]`;
# `offered` is the list of admissible actions.
ACTION_EPISODES = 4
# Replies without an admissible action. They do not have the strict format (see `replies`). Template fields, unclosed
# tags and control characters must not cause errors.
UNREADABLE = (
    "",
    "   ",
    "<action>",
    "<action></action>",
    "</think><action>x",
    "\x00\ud7ff",
    "?" * 5000,
    "{history}",
    "%s",
)
NOTHING = "nothing of use"  # a reply that changes no state


class ContractError(AssertionError):
    """The environment violates the contract. The message describes the violation."""


class NotApplicable(SkipTest):
    """The check does not apply to this environment. The message gives the reason. pytest skips the test."""


def _require(condition: object, message: str) -> None:
    if not condition:
        raise ContractError(message)


def _specs(environment: EnvironmentFactory, count: int = TASKS) -> Iterator[ResetSpec]:
    """Yield the reset requests of the first `count` tasks of each split."""
    for split in environment.info.splits:
        for index in range(count if split.size is None else min(count, split.size)):
            yield ResetSpec(split=split.name, index=index)


def _start(environment: EnvironmentFactory, spec: ResetSpec) -> Episode:
    return environment.start(environment.task(spec))


def _any_task(environment: EnvironmentFactory, index: int = 0) -> ResetSpec:
    """Return the reset request of task `index` in the default split. In a split with fewer tasks, use the last one."""
    size = environment.info.splits[0].size
    return ResetSpec(index=index if size is None else min(index, size - 1))


def _has_expert(environment: EnvironmentFactory) -> bool:
    return "expert" in environment.info.capabilities


def _plan(episode: Episode) -> list[str]:
    """Return the expert's replies from the current state to the end."""
    try:
        return episode.expert()
    except ExpertUnavailable as error:
        raise ContractError(
            f"{episode.task.id}: the expert found no plan ({error}); if the environment has no expert, set "
            '`expert = False`; if it is no TextEnvironment, remove "expert" from `info.capabilities` instead'
        ) from error


def _some_replies(environment: EnvironmentFactory, spec: ResetSpec) -> list[str]:
    """Return replies for an episode. They contain unreadable replies, a reply that changes no state, and the first half
    of the expert's replies if there is an expert. Only the expert's replies change the state.
    """
    plan = _plan(_start(environment, spec)) if _has_expert(environment) else []
    return [*UNREADABLE[:2], *plan[: len(plan) // 2], f"<think>x</think><action>{NOTHING}</action>", *UNREADABLE[2:]]


def _transcript(episode: Episode, replies: Sequence[str]) -> list[StepResult]:
    """Play the replies in order, at most to the end of the episode. Return the results, beginning with `observe()`."""
    results = [episode.observe()]
    for reply in replies:
        if episode.done:
            break
        results.append(episode.step(reply))
    return results


def has_complete_info(environment: EnvironmentFactory) -> None:
    """Check that the names, versions, texts and descriptions in `info` are not empty, and that the horizon is positive.
    The names of the splits must differ. The first split must be for training, and at least one for evaluation.
    """
    info = environment.info
    for name, text in (
        ("name", info.name), ("version", info.version), ("description", info.description),
        ("template version", info.template.version), ("template text", info.template.text),
        ("parser version", info.parser.version),
    ):  # fmt: skip
        _require(text, f"info: the {name} is empty")
    _require(info.horizon > 0, f"info: the horizon must be positive, but it is {info.horizon}")
    _require(info.splits, "info: there is no split")
    _require(len({split.name for split in info.splits}) == len(info.splits), "info: two splits have the same name")
    _require(
        not info.splits[0].evaluation,
        "info: the first split is an evaluation split; it is the default, so it must be for training",
    )
    _require(any(split.evaluation for split in info.splits), "info: no split is for evaluation")
    json.dumps(info.options)


def names_its_tasks(environment: EnvironmentFactory) -> None:
    """Check that the method `task` finds a task by its id. The request may also contain the task's split and index."""
    for spec in _specs(environment):
        task = environment.task(spec)
        for request in (ResetSpec(task_id=task.id), ResetSpec(task_id=task.id, split=spec.split, index=spec.index)):
            _require(environment.task(request).id == task.id, f"{request} does not give the task {task.id!r}")


def keeps_evaluation_tasks_out_of_training(environment: EnvironmentFactory) -> None:
    """Check that no task is both in an evaluation split and in a training split. The check compares the content keys of
    the first `DISJOINT_TASKS` tasks of each split.
    """
    keys: dict[bool, set[str]] = {True: set(), False: set()}
    evaluation = {split.name: split.evaluation for split in environment.info.splits}
    for spec in _specs(environment, DISJOINT_TASKS):
        metadata = _start(environment, spec).observe().metadata
        _require(metadata is not None and metadata.content_key, f"{spec}: content_key is empty")
        keys[evaluation[str(spec.split)]].add(metadata.content_key if metadata else "")
    shared = keys[True] & keys[False]
    _require(
        not shared,
        f"{len(shared)} content keys are in training and evaluation splits, such as {min(shared, default='')!r}",
    )


def repeats_transcripts(environment: EnvironmentFactory) -> None:
    """Check that two episodes with the same task and the same replies have equal results."""
    for spec in _specs(environment):
        replies = _some_replies(environment, spec)
        once, again = (_transcript(_start(environment, spec), replies) for _ in range(2))
        _require(once == again, f"{spec}: two episodes with the same replies differ")


def begins_with_an_observation(environment: EnvironmentFactory) -> None:
    """Check the first result of an episode, before any step.

    The prompt must contain all words of the observation's text, in any order. `state_key` and `observation_key` must
    not be empty, and `task_id` must be the task's id. The reward must be None, and the score at least 0 and below 1.
    `done` must be False, `step` 0, and `remaining_steps` the horizon. `format_valid` and `action_valid` must be True.
    """
    for spec in _specs(environment):
        first = _start(environment, spec).observe()
        seen, metadata = first.observation, first.metadata
        begun = (first.reward, first.done, seen.step, seen.remaining_steps)
        expected = (None, False, 0, environment.info.horizon)
        names = "(reward, done, step, remaining_steps)"
        _require(begun == expected, f"{spec}: at the start, {names} is {begun}, not {expected}")
        words, shown = set(seen.text.split()), set(seen.prompt.split())
        _require(words, f"{spec}: the observation's text is empty")
        _require(
            seen.text in seen.prompt or words <= shown,
            f"{spec}: the prompt lacks words of the observation's text, such as {min(words - shown, default='')!r}",
        )
        _require(
            seen.action_valid and seen.format_valid,
            f"{spec}: the first observation has action_valid or format_valid False",
        )
        _require(metadata is not None, f"{spec}: the first result has no metadata")
        assert metadata is not None
        expected_id = environment.task(spec).id
        _require(
            metadata.task_id == expected_id,
            f"{spec}: the metadata's task_id is {metadata.task_id!r}, but the task has the id {expected_id!r}",
        )
        _require(metadata.state_key and metadata.observation_key, f"{spec}: state_key or observation_key is empty")
        _require(
            0 <= metadata.score < 1,
            f"{spec}: the score at the start is {metadata.score}: it must be at least 0 and below 1",
        )


def ends_at_the_horizon(environment: EnvironmentFactory) -> None:
    """Check that an episode ends after at most `horizon` steps, and that a further step raises RuntimeError."""
    episode, results = _start(environment, _any_task(environment, 1)), list[StepResult]()
    while not episode.done:
        results.append(episode.step(NOTHING))
        _require(len(results) <= environment.info.horizon, "the episode continues after the horizon")
    steps = [result.observation.step for result in results]
    _require(
        steps == list(range(1, len(results) + 1)), f"the steps have the numbers {steps}: they must be 1, 2, 3 and so on"
    )
    _require(
        [result.done for result in results] == [False] * (len(results) - 1) + [True],
        "`done` must be True in the last step, and only there",
    )
    last = results[-1].observation
    _require(last.terminated or last.truncated, "the last observation is neither terminated nor truncated")
    try:
        episode.step("more")
    except RuntimeError:
        return
    raise ContractError("a step after the end raises no RuntimeError")


def offers_actions_until_the_end(environment: EnvironmentFactory) -> None:
    """Check that every state before the end has an admissible action. A lost or drawn game must therefore end."""
    for number in range(ACTION_EPISODES):
        episode = _start(environment, _any_task(environment, 1))
        offered = episode.observe().observation.admissible_actions
        if offered is None:  # any text may be an action
            return
        while not episode.done:
            if not offered:
                raise ContractError("the episode continues without an admissible action: see `TextGame.over`")
            reply = f"<think>x</think><action>{offered[number % len(offered)]}</action>"
            offered = episode.step(reply).observation.admissible_actions


def marks_unreadable_replies(environment: EnvironmentFactory) -> None:
    """Check that each reply of `UNREADABLE` counts as a step, gets a reward, and has `format_valid` False."""
    for reply in UNREADABLE:
        result = _start(environment, _any_task(environment, 1)).step(reply)
        marks = (result.observation.step, result.observation.format_valid)
        _require(
            marks == (1, False), f"after the reply {reply[:20]!r}, (step, format_valid) is {marks}, not (1, False)"
        )
        _require(
            isinstance(result.reward, float),
            f"the reward of the reply {reply[:20]!r} is {result.reward!r}: it must be a float",
        )
        json.dumps(result.observation.text)


def knows_the_strict_format(environment: EnvironmentFactory) -> None:
    """Check that `format_valid` is True for the expert's reply, and False if the reply has an extra character."""
    _need_expert(environment)
    episode = _start(environment, _any_task(environment, 1))
    strict = _plan(episode)[0]
    _require(
        episode.fork().step(strict).observation.format_valid, f"the expert's reply {strict!r} has format_valid False"
    )
    _require(not episode.fork().step(strict + "!").observation.format_valid, f"{strict + '!'!r} has format_valid True")


def has_an_expert_that_solves_it(environment: EnvironmentFactory) -> None:
    """Check that the expert solves the first `TASKS` tasks of each split. Each reply of the expert must have
    `action_valid` and `format_valid` True. Before each reply, a new plan must equal the rest of the first plan.
    """
    _need_expert(environment)
    for spec in _specs(environment):
        episode = _start(environment, spec)
        plan, result = _plan(episode), episode.observe()
        for position, reply in enumerate(plan):
            _require(_plan(episode) == plan[position:], f"{spec}: the expert changes its plan at step {position}")
            result = episode.step(reply)
            marks = (result.observation.action_valid, result.observation.format_valid)
            _require(
                marks == (True, True),
                f"{spec}: after the expert's reply {reply!r}, (action_valid, format_valid) is {marks}, "
                "not (True, True)",
            )
        metadata = result.metadata
        ended = metadata and (result.done, metadata.success, metadata.score)
        _require(
            ended == (True, True, 1.0),
            f"{spec}: after the expert's plan, (done, success, score) is {ended}, not (True, True, 1.0)",
        )


def forks(environment: EnvironmentFactory) -> None:
    """Check that a fork has the state of its episode. Steps of the episode must not change the fork, and steps of the
    fork must not change the episode.
    """
    for spec in _specs(environment, 2):
        episode, replies = _start(environment, spec), _some_replies(environment, spec)
        _transcript(episode, replies[:2])
        twin = episode.fork()
        _require(twin.observe() == episode.observe(), f"{spec}: a fork is in another state")
        steps, expected = episode.steps, _transcript(episode.fork(), replies[2:])
        _require(_transcript(episode, replies[2:]) == expected, f"{spec}: an episode differs from its fork")
        _require(twin.steps == steps, f"{spec}: steps of the episode changed its fork")
        _require(_transcript(twin, replies[2:]) == expected, f"{spec}: a fork differs from its episode")


def has_keys_of_states(environment: EnvironmentFactory) -> None:
    """Check that two tasks have different state keys. A step that does not change the state must also leave
    `state_key` and `observation_key` unchanged.

    Training methods with step-level advantages compare turns with equal keys. If a key contained a step counter, no two
    turns of an episode would have equal keys.
    """
    episode = _start(environment, _any_task(environment, 1))
    first, other = episode.observe().metadata, _start(environment, _any_task(environment, 2)).observe().metadata
    _require(first and other and first.state_key != other.state_key, "two tasks have the same state_key")
    first = episode.step(NOTHING).metadata
    if episode.done:
        raise NotApplicable(f"the reply {NOTHING!r} ends the episode")
    second = episode.step(NOTHING).metadata
    assert first is not None
    assert second is not None
    keys = [(metadata.state_key, metadata.observation_key) for metadata in (first, second)]
    _require(keys[0] == keys[1], f"the reply {NOTHING!r} changed state_key or observation_key")


def _need_expert(environment: EnvironmentFactory) -> None:
    if not _has_expert(environment):
        raise NotApplicable("this environment has no expert")


Check = Callable[[EnvironmentFactory], None]
CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        has_complete_info, names_its_tasks, keeps_evaluation_tasks_out_of_training, repeats_transcripts,
        begins_with_an_observation, ends_at_the_horizon, offers_actions_until_the_end, marks_unreadable_replies,
        knows_the_strict_format, has_an_expert_that_solves_it, forks, has_keys_of_states,
    )
}  # fmt: skip


def main() -> int:
    """Run the command that the module's docstring shows."""
    parser = argparse.ArgumentParser(prog="python -m arlarena.environment.contract", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", help="an installed environment, or a module with load(where, options)")
    parser.add_argument("--options", type=json.loads, default={}, help="the environment's options, as JSON")
    arguments = parser.parse_args()
    environment = load("[environment]", arguments.name, arguments.options)
    failed = 0
    for name, check in CHECKS.items():
        try:
            check(environment)
            outcome = "ok"
        except NotApplicable as reason:
            outcome = f"not applicable: {reason}"
        except ContractError as error:
            outcome, failed = f"FAILED: {error}", failed + 1
        except Exception:
            outcome, failed = f"FAILED:\n{traceback.format_exc()}", failed + 1
        print(f"{name.replace('_', ' ')}: {outcome}", flush=True)
    print(f"{len(CHECKS) - failed} of {len(CHECKS)} checks hold or are not applicable")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(exit_on_config_error(main))
