"""One problem being worked on: replies come in, programs are run, an answer ends it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self

from arlarena.environment.hashing import digest
from arlarena.environment.prompts import PromptTemplate, Scene
from arlarena.environment.protocols import EnvironmentFailure, ExpertUnavailable
from arlarena.environments.tir_math.episode.prompts import RESULT, VOID, canonical, result
from arlarena.environments.tir_math.episode.replies import MathReply, boxed, read_reply
from arlarena.environments.tir_math.judge.judge_process import Judge
from arlarena.environments.tir_math.problems.problem import Problem
from arlarena.proto.env_api import Metadata, Observation, StepResult
from arlarena.proto.trajectory import Task
from arlarena.sandbox.execution import Sandbox, SandboxBusy, SandboxError

SUCCESS_REWARD = 1.0  # the paper's
RUN, ANSWER = "run", "answer"  # what `Metadata.action` calls what was done


@dataclass(frozen=True, slots=True)
class EpisodeRules:
    """What episodes of one environment have in common.

    Attributes:
        sandbox, judge: who runs programs, and who judges answers.
        template: of the prompt.
        horizon: turns until the end.
        output_chars: of a program's output that are shown.
        stateful: whether a program finds what earlier ones have defined.
        direct: the share of problems, by their hash, of which the expert says the answer at once.
    """

    sandbox: Sandbox
    judge: Judge
    template: PromptTemplate
    horizon: int
    output_chars: int
    stateful: bool
    direct: float


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an episode stands. Never changed, so that forks share it.

    Attributes:
        turns: each reply and what was said to it.
        programs: those that were run and can be run again, in order.
        findings: what they brought, in canonical form: the anchor by which turns are compared.
        answer: the answer given; None before there is one.
        right: whether it is right.
    """

    turns: tuple[tuple[str, str], ...] = ()
    programs: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    answer: str | None = None
    right: bool = False


@dataclass(slots=True)
class TirMathEpisode:
    """One episode. It implements `arlarena.environment.protocols.Episode`."""

    rules: EpisodeRules
    task: Task
    problem: Problem
    standing: Standing = field(default_factory=Standing)

    @property
    def steps(self) -> int:
        """Replies taken."""
        return len(self.standing.turns)

    @property
    def done(self) -> bool:
        """Whether there is an answer, or no turn is left."""
        return self.standing.answer is not None or self.steps >= self.rules.horizon

    def observe(self) -> StepResult:
        """The state as it is now, as after a reset."""
        return self._result(None, None)

    def step(self, text: str) -> StepResult:
        """Take a reply: an answer in it ends the episode, else its program is run.

        Raises:
            EnvironmentFailure: the sandbox failed, or had too much to do. The episode is where it was.
            RuntimeError: the episode is over.
        """
        if self.done:
            raise RuntimeError("the episode is over")
        reply = read_reply(text)
        try:
            self.standing = self._after(text, reply)
        except SandboxBusy as error:
            raise EnvironmentFailure(str(error), busy=True, retry_after_s=error.retry_after_s) from error
        except SandboxError as error:
            raise EnvironmentFailure(f"the sandbox failed: {error}") from error
        return self._result(reply, SUCCESS_REWARD if self.standing.right else 0.0)

    def expert(self) -> list[str]:
        """A program that finds the answer, then the answer.

        Raises:
            ExpertUnavailable: nobody has written a program for such problems.
        """
        program, answer = self.problem.expert, f"\\boxed{{{self.problem.answer}}}"
        if self.standing.findings or self._is_direct():
            return [answer]
        if program is None:
            raise ExpertUnavailable("problems that are read from files have no expert: learn from a model instead")
        return [f"```python\n{program.strip()}\n```", answer]

    def fork(self) -> Self:
        """An independent copy in the same state."""
        return replace(self)

    def _is_direct(self) -> bool:
        return int(digest(f"direct\0{self.problem.text}")[:8], 16) < self.rules.direct * 2**32

    def _after(self, text: str, reply: MathReply) -> Standing:
        """Where the episode stands after a reply."""
        before = self.standing
        if reply.answer is not None:
            return self._answered(replace(before, turns=(*before.turns, (text, ""))), reply.answer)
        if reply.code is None:
            return replace(before, turns=(*before.turns, (text, VOID)))
        earlier = before.programs if self.rules.stateful else ()
        execution = self.rules.sandbox.run(reply.code, earlier)
        said = RESULT + result(execution, self.rules.output_chars)
        # What had to be ended would be ended again: an interpreter that was killed has not run it.
        runs_again = execution.ending in ("ok", "error")
        after = replace(
            before,
            turns=(*before.turns, (text, said)),
            programs=(*before.programs, reply.code) if runs_again else before.programs,
            findings=(*before.findings, canonical(execution)),
        )
        answer = boxed(execution.stdout)
        return after if answer is None else self._answered(after, answer)

    def _answered(self, standing: Standing, answer: str) -> Standing:
        problem = self.problem
        return replace(standing, answer=answer, right=self.rules.judge.is_right(problem.answer, answer, problem.form))

    def _result(self, reply: MathReply | None, reward: float | None) -> StepResult:
        rules, standing = self.rules, self.standing
        said = standing.turns[-1][1] if standing.turns else ""
        past = [f"{reply}\n{said}" for reply, said in standing.turns]
        answered = standing.answer is not None
        observation = Observation(
            text=said if standing.turns else self.problem.text,
            prompt=self._prompt(past),
            message=said if standing.turns else self._prompt([]),
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
            state_key=digest("\0".join([name, *standing.findings, *(["answered"] if answered else [])])),
            observation_key=digest(f"{name}\0{observation.text}"),
            score=float(standing.right),
            success=standing.right,
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
