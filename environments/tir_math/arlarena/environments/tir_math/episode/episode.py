"""Runs an episode on one problem. Programs in replies are run, and an answer ends the episode."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self

from arlarena.environment.hashing import digest
from arlarena.environment.prompts import PromptTemplate, Scene
from arlarena.environment.protocols import EnvironmentFailure, ExpertUnavailable
from arlarena.environments.tir_math.episode.prompts import NO_ACTION, RESULT, canonical, result
from arlarena.environments.tir_math.episode.replies import MathReply, boxed, read_reply
from arlarena.environments.tir_math.judge.judge_process import Judge
from arlarena.environments.tir_math.problems.problem import Problem
from arlarena.proto.env_api import Metadata, Observation, StepResult
from arlarena.proto.trajectory import Task
from arlarena.sandbox.execution import Sandbox, SandboxBusy, SandboxError

SUCCESS_REWARD = 1.0  # as in the ARLArena paper
RUN, ANSWER = "run", "answer"  # values of `Metadata.action`


@dataclass(frozen=True, slots=True)
class EpisodeRules:
    """The settings and services that all episodes of an environment share.

    Attributes:
        sandbox: runs programs.
        judge: judges answers.
        template: template of the prompt.
        horizon: maximum number of turns.
        output_chars: maximum number of characters of a program's result that the prompt shows.
        stateful: whether a program can use definitions of the episode's earlier programs.
        direct_share: share of problems that the expert answers without a program, from 0 to 1. The hash of a problem
            decides whether the problem belongs to this share.
    """

    sandbox: Sandbox
    judge: Judge
    template: PromptTemplate
    horizon: int
    output_chars: int
    stateful: bool
    direct_share: float


@dataclass(frozen=True, slots=True)
class MathState:
    """The state of an episode. The state is immutable, so forks can share it.

    Attributes:
        turns: a pair (reply, response of the environment) for each turn. programs: the programs so far, in order.
        Programs that were stopped at a limit are left out. If `EpisodeRules.stateful` is True,
            later programs can use the definitions in these programs.
        findings: the results of the programs in canonical form. Training methods with step-level advantages compare
            turns that start with equal findings.
        answer: the answer, or None if the policy has not answered yet.
        right: whether the answer is right.
    """

    turns: tuple[tuple[str, str], ...] = ()
    programs: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    answer: str | None = None
    right: bool = False


@dataclass(slots=True)
class TirMathEpisode:
    """One episode. Implements `arlarena.environment.protocols.Episode`."""

    rules: EpisodeRules
    task: Task
    problem: Problem
    state: MathState = field(default_factory=MathState)

    @property
    def steps(self) -> int:
        """Number of turns taken."""
        return len(self.state.turns)

    @property
    def done(self) -> bool:
        """Whether the policy has given an answer, or no turn is left."""
        return self.state.answer is not None or self.steps >= self.rules.horizon

    def observe(self) -> StepResult:
        """Return the current state as the result of a reset."""
        return self._result(None, None)

    def step(self, text: str) -> StepResult:
        """Process a reply. An answer ends the episode; a program is run in the sandbox.

        Raises:
            EnvironmentFailure: the sandbox failed or is busy. The state is unchanged.
            RuntimeError: the episode has ended.
        """
        if self.done:
            raise RuntimeError("the episode has ended")
        reply = read_reply(text)
        try:
            self.state = self._after(text, reply)
        except SandboxBusy as error:
            raise EnvironmentFailure(str(error), busy=True, retry_after_s=error.retry_after_s) from error
        except SandboxError as error:
            raise EnvironmentFailure(f"the sandbox failed: {error}") from error
        return self._result(reply, SUCCESS_REWARD if self.state.right else 0.0)

    def expert(self) -> list[str]:
        """Return the expert's replies: a program that computes the answer, and then the answer. Return only the answer
        if a program was already run, or if the problem belongs to the share `EpisodeRules.direct_share`.

        Raises:
            ExpertUnavailable: the problem has no program of the expert.
        """
        program, answer = self.problem.expert, f"\\boxed{{{self.problem.answer}}}"
        if self.state.findings or self._is_direct():
            return [answer]
        if program is None:
            raise ExpertUnavailable(
                "problems from files or data sets have no expert: record demonstrations of a model instead"
            )
        return [f"```python\n{program.strip()}\n```", answer]

    def fork(self) -> Self:
        """Return an independent copy in the same state."""
        return replace(self)

    def _is_direct(self) -> bool:
        return int(digest(f"direct\0{self.problem.text}")[:8], 16) < self.rules.direct_share * 2**32

    def _after(self, text: str, reply: MathReply) -> MathState:
        """Return the state after a reply."""
        before = self.state
        if reply.answer is not None:
            return self._answered(replace(before, turns=(*before.turns, (text, ""))), reply.answer)
        if reply.code is None:
            return replace(before, turns=(*before.turns, (text, NO_ACTION)))
        earlier = before.programs if self.rules.stateful else ()
        execution = self.rules.sandbox.run(reply.code, earlier)
        response = RESULT + result(execution, self.rules.output_chars)
        # A program that was stopped is not run again before later programs, because it would be stopped again.
        repeatable = execution.ending in ("ok", "error")
        after = replace(
            before,
            turns=(*before.turns, (text, response)),
            programs=(*before.programs, reply.code) if repeatable else before.programs,
            findings=(*before.findings, canonical(execution)),
        )
        answer = boxed(execution.stdout)
        return after if answer is None else self._answered(after, answer)

    def _answered(self, state: MathState, answer: str) -> MathState:
        problem = self.problem
        return replace(state, answer=answer, right=self.rules.judge.is_right(problem.answer, answer, problem.form))

    def _result(self, reply: MathReply | None, reward: float | None) -> StepResult:
        rules, state = self.rules, self.state
        response = state.turns[-1][1] if state.turns else ""
        past = [f"{reply}\n{response}" for reply, response in state.turns]
        answered = state.answer is not None
        observation = Observation(
            text=response if state.turns else self.problem.text,
            prompt=self._prompt(past),
            message=response if state.turns else self._prompt([]),
            step=self.steps,
            remaining_steps=rules.horizon - self.steps,
            terminated=answered,
            truncated=self.done and not answered,
            action_valid=reply is None or not reply.no_action,
            format_valid=reply is None or reply.format_valid,
        )
        name = self.task.id
        action = "" if reply is None or reply.no_action else RUN if reply.answer is None else ANSWER
        metadata = Metadata(
            task_id=name,
            state_key=digest("\0".join([name, *state.findings, *(["answered"] if answered else [])])),
            observation_key=digest(f"{name}\0{observation.text}"),
            score=float(state.right),
            success=state.right,
            action=action,
            content_key=self.problem.key,
            kind=self.problem.kind,
            no_action=reply is not None and reply.no_action,
        )
        return StepResult(observation, reward, self.done, metadata)

    def _prompt(self, past: list[str]) -> str:
        rules = self.rules
        scene = Scene(self.problem.text, past, rules.horizon - self.steps, rules.horizon, task=self.problem.text)
        return rules.template.render(scene)
