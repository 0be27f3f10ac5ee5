"""Answers are judged in locked-down forks; a failure of the machine is never a wrong answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from cases.case_support import busy_cores

from arlarena.environments.tir_math.judge import judge_process as judging
from arlarena.environments.tir_math.judge.judge_process import ForkJudge
from arlarena.sandbox import kernel
from arlarena.sandbox.execution import Ending, Execution, ResourceUsage, SandboxError, SandboxUnavailable
from arlarena.sandbox.forks import ForkSettings
from arlarena.sandbox.limits import ExecutionLimits

pytestmark = pytest.mark.skipif(not kernel.supported(), reason="the sandbox of forks needs Linux on x86-64 or aarch64")
LIMITS = ExecutionLimits(wall_s=30.0, cpu_s=5.0, memory_mb=512, output_bytes=4096)


@pytest.fixture(scope="module")
def judge() -> Iterator[ForkJudge]:
    made = ForkJudge(ForkSettings(LIMITS))
    yield made
    made.close()


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        (r"\frac{3}{4}", "0.75", True),
        (r"(-\infty, 2]", r"x \le 2", True),
        ("12", "13", False),
        ("12", "9^{9^{9^{9}}}", False),
        ("12", "{" * 5000, False),
        ("12", "\\frac" * 200, False),
        ("12", "1" * 1_000_000, False),
        ("12", "__import__('os')._exit(0)", False),
        ("12", "right", False),
    ],
)
def test_answers_get_the_right_verdict(judge: ForkJudge, gold: str, answer: str, right: bool) -> None:
    assert judge.is_right(gold, answer, "math") is right


def stopped(ending: Ending, *, computed: bool = False) -> Execution:
    execution = Execution.of(ending, (b"", b"MemoryError\n"), LIMITS, "SIGSEGV", ResourceUsage(30.0, 4.9, 100.0))
    return replace(execution, hit_cpu_limit=computed)


@pytest.mark.parametrize(
    "execution",
    [stopped("timeout"), stopped("error")],
    ids=["too slow by the clock", "broken"],
)
def test_a_failure_of_the_machine_is_not_a_wrong_answer(
    judge: ForkJudge, monkeypatch: pytest.MonkeyPatch, execution: Execution
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(judge._sandbox, "run_payload", lambda payload: execution)
        with pytest.raises(SandboxError, match="could not be judged"):
            judge.is_right("1/3", f"2/6 + 0*{len(execution.detail)}", "math")
    assert judge.is_right("1/3", f"2/6 + 0*{len(execution.detail)}", "math")  # the failure was not cached


@pytest.mark.parametrize("execution", [stopped("timeout", computed=True), stopped("killed")])
def test_a_limit_hit_by_the_answer_is_a_wrong_answer(
    judge: ForkJudge, monkeypatch: pytest.MonkeyPatch, execution: Execution
) -> None:
    monkeypatch.setattr(judge._sandbox, "run_payload", lambda payload: execution)
    assert not judge.is_right("7", f"an answer with an end of {execution.detail}", "math")


@pytest.mark.slow  # ten seconds: both cores are kept busy; tests/cases/environments/judge_cpu_limit.py is one, too
def test_an_answer_over_the_cpu_limit_is_wrong_on_a_busy_machine() -> None:
    hard = "x"
    for _ in range(6):
        hard = rf"\ln({hard}^{{2}}+1)^{{2}}"
    judge = ForkJudge(ForkSettings(ExecutionLimits(wall_s=2.0, cpu_s=1.0, memory_mb=512, output_bytes=4096)))
    try:
        with busy_cores():
            assert [judge.is_right("x", hard + " " * number, "math") for number in range(2)] == [False, False]
            assert judge.is_right(r"\frac{3}{4}", "0.75", "math")
    finally:
        judge.close()


def test_a_verdict_is_computed_once(judge: ForkJudge, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    run_payload = judge._sandbox.run_payload

    def counted(payload: bytes) -> Execution:
        asked.append(json.loads(payload))
        return run_payload(payload)

    monkeypatch.setattr(judge._sandbox, "run_payload", counted)
    assert [judge.is_right("0.625", r"\frac{5}{8}", "math") for _ in range(3)] == [True] * 3
    assert asked == [["math", "0.625", r"\frac{5}{8}"]]


def test_a_judge_with_wrong_verdicts_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    known = dict(judging.SELF_TEST)
    known["math", "1", "2"] = True
    monkeypatch.setattr(judging, "SELF_TEST", known)
    with pytest.raises(SandboxUnavailable, match="wrong verdict on 2 with the gold answer 1"):
        ForkJudge(ForkSettings(LIMITS))
