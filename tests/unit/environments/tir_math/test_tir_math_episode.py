"""TIR Math: effects of replies, observations, and state keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from arlarena.environment.protocols import EnvironmentFailure, ExpertUnavailable
from arlarena.environments.tir_math.episode.episode import EpisodeRules, TirMathEpisode
from arlarena.environments.tir_math.episode.prompts import canonical, result, template
from arlarena.environments.tir_math.judge.scoring import Form, verdict
from arlarena.environments.tir_math.problems.problem import Problem
from arlarena.proto.trajectory import Task
from arlarena.sandbox.execution import Ending, Execution, ResourceUsage, SandboxBusy, SandboxError, SandboxHealth
from arlarena.sandbox.limits import ExecutionLimits

LIMITS = ExecutionLimits()


def execution(out: str, err: str = "", ending: Ending = "ok") -> Execution:
    return Execution.of(ending, (out.encode(), err.encode()), LIMITS, "SIGKILL", ResourceUsage(0.1))


@dataclass
class Programs:
    """A sandbox with scripted results that records its calls."""

    answers: dict[str, Execution | SandboxError] = field(default_factory=dict)
    asked: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)

    def run(self, program: str, before: Sequence[str] = (), limits: ExecutionLimits | None = None) -> Execution:
        self.asked.append((program.strip(), tuple(before)))
        found = self.answers[program.strip()]
        if isinstance(found, SandboxError):
            raise found
        return found

    def health(self) -> SandboxHealth:
        return SandboxHealth("book", True, (), 0, 0, 0, 65534)

    def close(self) -> None:
        pass


class Verdicts:
    """A judge without a process."""

    def is_right(self, gold: str, answer: str, form: Form) -> bool:
        return verdict(form, gold, answer)


def begun(
    programs: Programs, *, stateful: bool = False, direct_share: float = 0.0, expert: str | None = "print(4)"
) -> TirMathEpisode:
    rules = EpisodeRules(programs, Verdicts(), template("full", stateful=stateful), 3, 40, stateful, direct_share)
    problem = Problem("1", "What is 2 + 2?", "4", "sums", None, "test", "k" * 32, "math", expert)
    return TirMathEpisode(rules, Task("tir_math", "train", 0), problem)


def code(program: str) -> str:
    return f"Let me see.\n```python\n{program}\n```"


def test_an_answer_ends_the_episode_and_is_rewarded_if_right() -> None:
    for answer, right in (("4", True), ("\\frac{8}{2}", True), ("5", False)):
        episode = begun(Programs())
        given = episode.step(f"It is \\boxed{{{answer}}}.")
        assert (given.reward, given.done, episode.done) == (float(right), True, True)
        assert (given.observation.terminated, given.observation.truncated) == (True, False)
        assert given.metadata is not None
        assert (given.metadata.success, given.metadata.score, given.metadata.action) == (right, float(right), "answer")
        with pytest.raises(RuntimeError, match="has ended"):
            episode.step("more")


def test_a_program_is_run_and_its_output_is_observed() -> None:
    episode = begun(Programs({"print(2+2)": execution("4\n")}))
    first = episode.observe()
    assert first.observation.message == first.observation.prompt
    assert "What is 2 + 2?" in first.observation.prompt
    after = episode.step(code("print(2+2)"))
    assert after.observation.message == after.observation.text == "Code execution result: 4"
    assert (after.reward, after.done, after.observation.step, after.observation.remaining_steps) == (0.0, False, 1, 2)
    # The prompt is self-contained: the problem, the replies and the results.
    for part in ("What is 2 + 2?", code("print(2+2)"), "Code execution result: 4"):
        assert part in after.observation.prompt
    assert after.metadata is not None
    assert (after.metadata.action, after.metadata.no_action, after.metadata.kind) == ("run", False, "sums")


def test_an_answer_in_the_output_ends_the_episode() -> None:
    episode = begun(Programs({"final_answer(4)": execution("\\boxed{4}\n")}))
    given = episode.step(code("final_answer(4)"))
    assert (given.reward, given.done, given.observation.terminated) == (1.0, True, True)


def test_an_answer_before_a_program_counts_and_the_program_is_not_run() -> None:
    programs = Programs()
    given = begun(programs).step("\\boxed{4}\n" + code("print(1)"))
    assert (given.reward, programs.asked) == (1.0, [])
    assert not given.observation.format_valid


def test_a_turn_without_action_is_marked_and_gets_a_hint() -> None:
    episode = begun(Programs())
    before, after = episode.observe(), episode.step("I do not know.")
    assert before.metadata is not None
    assert after.metadata is not None
    assert after.metadata.no_action
    assert not after.observation.action_valid
    assert not after.observation.format_valid
    assert "neither a program nor an answer" in after.observation.text
    assert after.metadata.state_key == before.metadata.state_key  # no new finding
    assert after.metadata.action == ""


def test_the_last_turn_truncates() -> None:
    episode = begun(Programs({"1": execution("")}))
    results = [episode.step(code("1")) for _ in range(3)]
    assert [each.done for each in results] == [False, False, True]
    assert results[-1].observation.truncated
    assert not results[-1].observation.terminated
    assert results[0].observation.text == "Code execution result: (nothing was printed)"


def test_a_failure_of_the_sandbox_does_not_count_as_a_step() -> None:
    episode = begun(Programs({"a": SandboxError("gone"), "b": SandboxBusy(7, 2.5)}))
    with pytest.raises(EnvironmentFailure, match="the sandbox failed: gone") as failed:
        episode.step(code("a"))
    assert not failed.value.busy
    with pytest.raises(EnvironmentFailure, match="7 programs are already waiting") as busy:
        episode.step(code("b"))
    assert (busy.value.busy, busy.value.retry_after_s, episode.steps) == (True, 2.5, 0)


def test_a_stateful_interpreter_reruns_finished_programs() -> None:
    programs = Programs(
        {
            "x = 1": execution(""),
            "1/0": execution("", "E\n", "error"),
            "loop": execution("", "", "timeout"),
            "y": execution(""),
        }
    )
    episode = begun(programs, stateful=True)
    rules = EpisodeRules(**{name: getattr(episode.rules, name) for name in EpisodeRules.__slots__} | {"horizon": 9})
    episode = TirMathEpisode(rules, episode.task, episode.problem)
    for program in ("x = 1", "1/0", "loop", "y"):
        episode.step(code(program))
    assert [len(before) for _, before in programs.asked] == [0, 1, 2, 2]
    assert [each.strip() for each in programs.asked[-1][1]] == ["x = 1", "1/0"]  # a killed program has no effect


def test_a_stateless_interpreter_forgets_definitions() -> None:
    programs = Programs({"x = 1": execution(""), "y": execution("")})
    episode = begun(programs)
    episode.step(code("x = 1"))
    episode.step(code("y"))
    assert programs.asked[-1] == ("y", ())


def test_forks_are_independent() -> None:
    episode = begun(Programs({"print(2+2)": execution("4\n")}))
    episode.step(code("print(2+2)"))
    twin = episode.fork()
    twin.step("\\boxed{4}")
    assert (twin.done, episode.done, episode.steps) == (True, False, 1)


# ---- the anchor --------------------------------------------------------------------------------------------------


def test_state_keys_depend_on_the_findings() -> None:
    def key(*outputs: Execution) -> str:
        episode = begun(Programs({str(n): output for n, output in enumerate(outputs)}))
        for n in range(len(outputs)):
            episode.step(f"words {n * 7}\n" + code(str(n)))
        metadata = episode.observe().metadata
        assert metadata is not None
        return metadata.state_key

    assert key(execution("4\n")) == key(execution(" 4.0 ")) == key(execution("4.00000000000001"))
    assert key(execution("4")) != key(execution("5"))
    assert key(execution("4")) != key()
    assert key(execution("1"), execution("2")) != key(execution("2"), execution("1"))
    mistakes = [execution("", f"Traceback\nNameError: name '{name}' is not defined", "error") for name in "ab"]
    assert key(mistakes[0]) == key(mistakes[1]) != key(execution("", "ZeroDivisionError: x", "error"))


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (execution("1\n"), "1"),
        (execution("x = +12,  y\n= 0.50\n"), "x = 12, y = 0.5"),
        (execution("1e3 -2.50e-3"), "1000 -0.0025"),
        (execution("0.1234567890123"), "0.123456789"),
        (execution("123456789012345678901234567890"), "123456789012345678901234567890"),
        (execution("a", "KeyError: 'b'", "error"), "a !KeyError"),
        (execution("", "", "timeout"), " !TimeoutError"),
    ],
)
def test_the_canonical_form_of_a_finding(output: Execution, expected: str) -> None:
    assert canonical(output) == expected


# ---- observations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        (execution("1\n2\n"), "1\n2"),
        (execution(""), "(nothing was printed)"),
        (execution("x" * 50), "x" * 39 + "…"),
        (execution("so far\n", "Traceback…\n  File\nValueError: no", "error"), "so far\nValueError: no"),
        (execution("x" * 50, "ValueError: no", "error"), "x" * 24 + "…\nValueError: no"),
        (execution("x", "E: " + "y" * 60, "error"), "E: " + "y" * 37),
        (execution("", "", "output"), "OutputError: the program wrote more than"),
    ],
)
def test_a_programs_result_is_shown_within_the_limit(output: Execution, shown: str) -> None:
    assert result(output, 40) == shown
    assert len(shown) <= 40


def test_the_prompt_states_whether_programs_share_variables() -> None:
    assert "starts anew" in template("full", stateful=False).text
    assert "share their variables" in template("full", stateful=True).text
    assert template("full", stateful=True).name != template("full", stateful=False).name
    assert begun(Programs()).observe().observation.prompt.count("\\boxed{answer}") == 1


# ---- the expert --------------------------------------------------------------------------------------------------


def test_the_expert_replies_with_a_program_then_the_answer() -> None:
    episode = begun(Programs({"print(4)": execution("4")}))
    program, answer = episode.expert()
    assert episode.step(program).observation.text == "Code execution result: 4"
    assert episode.expert() == [answer]
    assert episode.step(answer).reward == 1.0


def test_the_expert_answers_the_given_share_directly() -> None:
    assert begun(Programs(), direct_share=1.0).expert() == ["\\boxed{4}"]
    with pytest.raises(ExpertUnavailable, match="record demonstrations of a model"):
        begun(Programs(), expert=None).expert()
