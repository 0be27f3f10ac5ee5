"""The TIR Math environment: problems, a sandbox for programs and a judge of answers."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from arlarena.environment.indexed_tasks import indexed_task
from arlarena.environment.protocols import EnvironmentFailure
from arlarena.environment.replies import TAGS
from arlarena.environments.tir_math.episode.episode import SUCCESS_REWARD, EpisodeRules, TirMathEpisode
from arlarena.environments.tir_math.episode.prompts import template
from arlarena.environments.tir_math.judge.judge_process import ForkJudge
from arlarena.environments.tir_math.options import SandboxOptions, TirMathOptions, read_options
from arlarena.environments.tir_math.problems.families import GeneratedProblems
from arlarena.environments.tir_math.problems.listed import TRAIN, VALIDATION, ListedProblems
from arlarena.environments.tir_math.problems.problem import Problems
from arlarena.environments.tir_math.problems.sources import problems_of, with_data_folder
from arlarena.proto.config import ConfigError
from arlarena.proto.env_api import DataSource, Info, Parser, ResetSpec, Split
from arlarena.proto.telemetry import get_logger
from arlarena.proto.trajectory import Task
from arlarena.sandbox.containers import ContainerSandbox, ContainerSettings
from arlarena.sandbox.execution import Sandbox, SandboxError, SandboxUnavailable
from arlarena.sandbox.forks import ForkSandbox, ForkSettings
from arlarena.sandbox.limits import ExecutionLimits

KINDS: Mapping[str, Literal["train", "validation", "test"]] = {TRAIN: "train", VALIDATION: "validation"}
JUDGE_MEMORY_MB, JUDGE_OUTPUT_BYTES = 512, 4096
# Wall-clock limit of the judge, as a multiple of its CPU time limit. A small factor is enough, because judging never
# sleeps.
JUDGE_WALL = 2
END_OF_PROGRAM = "\n```\n"  # a closing fence; an opening fence does not match, because a language follows it
PARSER = Parser(
    "2",
    "Only the text after the last </think> is read. <think> may be missing, because the chat template may have written "
    "it. If the thought is not closed, the reply has no action. The first fenced block of Python, or of no named "
    "language, is the program. The last \\boxed{…} before the program, or in a reply without a program, is the answer. "
    "Strict format: a program or an answer, but not both. The program is in one closed block that ends the reply, and "
    "its fences are on lines of their own.",
    tags=list(TAGS),
)


class TirMathEnvironment:
    """The TIR Math environment with its options. Implements `EnvironmentFactory` and `Resources`.

    The resources are a sandbox for programs and a judge of answers. Both are started on first use.
    """

    name = "tir_math"
    blocking = True
    threads = 32  # number of the server's threads for episodes; the threads mostly wait for the sandbox

    def __init__(self, options: TirMathOptions, problems: Problems) -> None:
        self._options, self._problems = options, problems
        self._template = template(options.template, stateful=options.interpreter == "stateful")
        self._splits = [
            Split(name, KINDS.get(name, "test"), size, name != TRAIN) for name, size in problems.sizes().items()
        ]
        self._opening = threading.Lock()
        self._opened: tuple[Sandbox, ForkJudge] | None = None

    @property
    def info(self) -> Info:
        """The body of `/v1/info`."""
        options, generated = self._options, isinstance(self._problems, GeneratedProblems)
        source = "made by this server with reasoning-gym" if generated else "read from files or data sets"
        data = DataSource(f"problems {source}", official=False if generated else None)
        return Info(
            name=self.name,
            version=f"3-{self._problems.version}",
            description=f"Solve a problem of mathematics; programs are run between turns. Problems are {source}.",
            template=self._template.describe(),
            parser=PARSER,
            rewards={"right": SUCCESS_REWARD},
            horizon=options.max_turns,
            actions=None,
            splits=list(self._splits),
            options=options.model_dump(mode="json"),
            capabilities=["fork", "expert"] if generated else ["fork"],
            stop=[END_OF_PROGRAM] if options.stop_after_program else [],
            data=data,
            paths=["train", "tests.*"],
        )

    def task(self, spec: ResetSpec) -> Task:
        """Return the task of a reset request.

        Raises:
            TaskError: the split is unknown, the index is out of range, or the fields contradict each other.
        """
        return indexed_task(self.name, self._splits, spec)

    def start(self, task: Task) -> TirMathEpisode:
        """Start an episode. This takes milliseconds, or seconds if the sandbox must be started first.

        Raises:
            TaskError: the problem does not exist or cannot be generated.
            EnvironmentFailure: the sandbox did not start.
        """
        problem = self._problems.problem(task.split, task.index)
        try:
            sandbox, judge = self._ready()
        except SandboxError as error:
            raise EnvironmentFailure(f"the sandbox does not start: {error}") from error
        options = self._options
        rules = EpisodeRules(
            sandbox=sandbox,
            judge=judge,
            template=self._template,
            horizon=options.max_turns,
            output_chars=options.output_chars,
            stateful=options.interpreter == "stateful",
            direct_share=options.expert_direct,
        )
        return TirMathEpisode(rules, task, problem)

    def open(self) -> None:
        """Start the sandbox and the judge.

        Raises:
            ConfigError: this machine cannot provide the required protection, or the self-test of the judge failed.
            SandboxError: the sandbox or the judge did not start.
        """
        try:
            self._ready()
        except SandboxUnavailable as error:
            raise ConfigError(f"[environment.options.sandbox]: {error}") from error

    def health(self) -> dict[str, Any]:
        """Return the sandbox's state. If problems come from files or data sets, also return how many are left out."""
        details: dict[str, Any] = {"healthy": True, "sandbox": None}
        if isinstance(self._problems, ListedProblems):
            details["left_out"] = asdict(self._problems.left_out)
        if self._opened is not None:
            health = self._opened[0].health()
            details |= {"healthy": health.alive, "sandbox": asdict(health)}
        return details

    @property
    def warnings(self) -> list[str]:
        """Return a warning for the server's operator: how many problems of files or data sets are left out."""
        if not isinstance(self._problems, ListedProblems):
            return []
        left_out = self._problems.left_out
        count = left_out.repeated + left_out.unanswered + left_out.tested
        return [f"problems: {count} are left out: {left_out.reasons()}"] if count else []

    def close(self) -> None:
        """Stop the sandbox and the judge."""
        with self._opening:
            opened, self._opened = self._opened, None
        for part in opened or ():
            part.close()

    def _ready(self) -> tuple[Sandbox, ForkJudge]:
        with self._opening:
            if self._opened is None:
                sandbox = _sandbox(self._options.sandbox)
                if warning := sandbox.health().warning:
                    get_logger("env_server").warning("sandbox_runs_as_root", message=warning)
                try:
                    self._opened = sandbox, ForkJudge(_judge_settings(self._options.sandbox))
                except SandboxError:
                    sandbox.close()
                    raise
            return self._opened


def _sandbox(options: SandboxOptions) -> Sandbox:
    if options.backend == "docker" and options.image is not None:
        return ContainerSandbox(
            ContainerSettings(options.image, options.limits, options.running, options.max_waiting, options.runtime)
        )
    return ForkSandbox(ForkSettings(options.limits, options.running, options.max_waiting, options.required))


def _judge_settings(options: SandboxOptions) -> ForkSettings:
    limits = ExecutionLimits(JUDGE_WALL * options.judge_s, options.judge_s, JUDGE_MEMORY_MB, JUDGE_OUTPUT_BYTES)
    return ForkSettings(limits, options.running, options.max_waiting, options.required)


def load(where: str, values: Mapping[str, Any]) -> TirMathEnvironment:
    """Return the environment for a table of options.

    Raises:
        ConfigError: an option is unknown or invalid, or the problems cannot be read or generated.
    """
    options = with_data_folder(read_options(where, values))
    return TirMathEnvironment(options, problems_of(where, options))


__all__ = ["TirMathEnvironment", "load"]
