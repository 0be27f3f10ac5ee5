"""The stages of a run, in order.

broker → environment → policy → demonstrations → clone → inference → evaluation
→ trainer + workers → evaluation → report
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from arlarena.client.errors import ServiceError
from arlarena.client.policy import PolicyClient
from arlarena.console.launch.broker import Broker, ExternalBroker
from arlarena.console.launch.child import Address, AnyAddress, ProcessSpec
from arlarena.console.launch.commands import Commands
from arlarena.console.launch.failures import LaunchError
from arlarena.console.launch.health import Activity, HttpHealth
from arlarena.console.launch.progress import View
from arlarena.console.launch.supervised_broker import BrokerService
from arlarena.console.launch.supervisor import Service, Spec, Supervisor
from arlarena.console.report.ending import describe_ending, read_ending
from arlarena.console.report.html_page import write_report
from arlarena.console.report.summary import (
    data_warning,
    describe_filtered,
    read_json,
    read_steps,
    summarise,
    write_summary,
)
from arlarena.console.runconfig import RunConfig
from arlarena.console.rundir import RunDirectory
from arlarena.console.settings import external_broker_url
from arlarena.proto.shared_settings import TrainerKeys
from arlarena.proto.text.wording import counted
from arlarena.proto.trajectory import PolicyVersion

STAGES = (
    "broker", "environment", "policy", "demonstrations", "clone", "inference",
    "evaluate before", "train", "evaluate after", "report",
)  # fmt: skip


class Pipeline:
    """Executes the stages of one run. Each private method is one stage or a part of a stage."""

    def __init__(self, config: RunConfig, run: RunDirectory, view: View, supervisor: Supervisor) -> None:
        self.config, self.run, self.view, self.supervisor = config, run, view, supervisor
        self.settings, self.commands = config.console, Commands(config, run)
        self.environment: AnyAddress
        self.inference: AnyAddress
        self._began, self._wall_before = time.monotonic(), run.state.wall_s

    async def execute(self) -> dict[str, Any]:
        """Run every unfinished stage. Returns the summary.

        Raises:
            LaunchError: a stage failed, or a service failed and cannot be restarted.
        """
        if not self.run.state.finished:
            await self._stage("broker", self._start_broker)
            await self._stage("environment", self._start_environment)
            await self._run_if_unfinished("policy", self._make_policy)
            await self._run_if_unfinished("demonstrations", self._demonstrate)
            await self._run_if_unfinished("clone", self._clone)
            await self._stage("inference", self._start_inference)
            await self._run_if_unfinished("evaluate before", partial(self._evaluate, "before"))
            await self._run_if_unfinished("train", self._train)
            await self._run_if_unfinished("evaluate after", self._evaluate_after)
        summary: dict[str, Any] = await self._stage("report", self._report)
        return summary

    async def _stage(self, name: str, work: Callable[[], Awaitable[Any]]) -> Any:
        self.view.begin(name)
        try:
            result = await work()
        except BaseException as error:
            self.view.end(name, "stopped" if isinstance(error, asyncio.CancelledError) else "failed")
            raise
        finally:
            self.save()
        self.view.end(name, "done", result if isinstance(result, str) else "")
        return result

    async def _run_if_unfinished(self, name: str, work: Callable[[], Awaitable[Any]]) -> None:
        """Run a stage that writes its result to disk. Skip the stage if an earlier start of the run finished it."""
        if name in self.run.state.stages:
            self.view.end(name, "skipped")
            return
        began = time.monotonic()
        await self._stage(name, work)
        self.run.state.stages[name] = time.monotonic() - began
        self.save()

    def save(self) -> None:
        """Write the running time and the restarts of services to `run.json`."""
        self.run.state.wall_s = self._wall_before + time.monotonic() - self._began
        for name, service in self.supervisor.services.items():
            if service.restarts:
                self.run.state.restarts[name] = service.restarts
        self.run.save()

    async def _command(self, name: str, command: ProcessSpec) -> None:
        """Run a stage's command. The command counts as healthy as long as its log or its progress file changes."""
        health = Activity((command.log, self.run.progress(name)), self.settings.hang_timeout_s)
        await self.supervisor.run(name, command, health, self.settings.stage_timeout_s)

    async def _start_broker(self) -> str:
        settings = self.config.broker
        url = external_broker_url(settings)
        broker: Broker | ExternalBroker
        if url:
            broker = ExternalBroker(url, self.settings.health_timeout_s)
        else:
            broker = Broker(
                self.run.broker, port=settings.port or None, fsync=settings.fsync, timeout_s=settings.start_timeout_s
            )
        service = BrokerService(broker, self.settings, self.supervisor.reaper, self.view.notice)
        await self.supervisor.add("broker", service)
        self.redis_url = service.url
        return "the configured Redis" if url else "a local server"

    async def _start_environment(self) -> str:
        spec = Spec("environment", self.commands.environment_server, HttpHealth())
        service = await self.supervisor.start(spec)
        assert service.address is not None
        self.environment = service.address
        return self.environment.url

    async def _make_policy(self) -> str:
        if self.config.policy_path:
            return f"from [policy] path: {self.config.policy_path}"
        self.view.notice("[policy] path is not set: a small policy with random weights is created ([policy.tiny])")
        await self._command("policy", self.commands.tiny(self.environment))
        return f"a new policy with random weights in {self.run.policy}"

    async def _demonstrate(self) -> str:
        if not self.config.clones:
            return "nothing to do without the table [clone]"
        counts = self.config.demonstrations
        for split, count, out in (
            ("train", counts.demonstrations, self.run.demonstrations),
            (counts.validation_split, counts.validation, self.run.validation),
        ):
            await self._command(out.stem, self.commands.demonstrate(self.environment, split, count, out))
        return f"{counts.demonstrations:,} for training, {counts.validation:,} for early stopping"

    async def _clone(self) -> str:
        if not self.config.clones:
            return "nothing to do without the table [clone]"
        await self._command("clone", self.commands.clone())
        result = read_json(self.run.path / "clone.json")
        return f"{counted(int(result.get('steps', 0)), 'step')}, stopped by {result.get('stopped', '?')}"

    async def _start_inference(self) -> str:
        service = await self.supervisor.start(Spec("inference", self.commands.inference, HttpHealth()))
        assert service.address is not None
        self.inference = service.address
        return self.inference.url

    async def _evaluate(self, label: str) -> str:
        await self._command(f"evaluate-{label}", self.commands.evaluate(label, self.environment, self.inference))
        result = read_json(self.run.eval_set(label))
        if (warning := data_warning(result)) is not None and label == "before":
            self.view.notice(warning)
        return f"success {100 * result.get('success', 0):.1f} %"

    async def _train(self) -> str:
        trainer = await self._start_trainer()
        workers = [self._worker_spec(index) for index in range(self.settings.workers)]
        for spec in workers:
            await self.supervisor.start(spec)
        await self.supervisor.race(trainer.wait())
        self.save()
        for spec in workers:
            await self.supervisor.stop(spec.name)
        await self.supervisor.stop("trainer")
        return self._training_result()

    def _training_result(self) -> str:
        steps = read_steps(self.run.metrics)
        dropped = describe_filtered(int(steps[-1].get("total_filtered", 0)) if steps else 0)
        ending = describe_ending(read_ending(self.run.training))
        return ", ".join(filter(None, (self.config.method, ending, dropped)))

    async def _start_trainer(self) -> Service:
        resumed = self.run.checkpoints.is_dir()
        files = (self.run.log("trainer"), self.run.progress("train"), self.run.step("train"), self.run.metrics)

        def command(address: Address | None, restarts: int) -> ProcessSpec:
            return self.commands.train(resumed or restarts > 0, self.environment, self.inference, self.redis_url)

        health = Activity(files, self.settings.hang_timeout_s)
        return await self.supervisor.start(Spec("trainer", command, health, listens=False, exits_normally=True))

    def _worker_spec(self, index: int) -> Spec:
        def command(address: Address | None, restarts: int) -> ProcessSpec:
            worker = f"worker-{index}-{restarts}"
            return self.commands.worker(name, worker, self.environment, self.inference, self.redis_url)

        name = f"rollout-{index}"
        health = Activity((self.run.log(name),), self.settings.hang_timeout_s)
        return Spec(name, command, health, listens=False)

    async def _evaluate_after(self) -> str:
        """Evaluate the final weights. If the policy server serves other weights, first replace them."""
        newest = await asyncio.to_thread(newest_version, self.run.weights)
        if newest and await served_digest(self.inference) != newest.version.digest:
            await self._serve_final_weights(newest)
            if (served := await served_digest(self.inference)) != newest.version.digest:
                raise LaunchError(
                    f"the policy server serves version {served} instead of the final version {newest.version.digest}"
                )
        return await self._evaluate("after")

    async def _serve_final_weights(self, newest: CommittedVersion) -> None:
        """Restart the policy server, because it loads the newest version of the weights when it starts."""
        self.view.notice("restarting the policy server, because it does not serve the final weights")
        await self.supervisor.stop("inference")
        await self._start_inference()

    async def _report(self) -> dict[str, Any]:
        self.run.state.finished = True
        self.save()
        trained = self.config.part("trainer", TrainerKeys, "task_split").task_split
        summary = summarise(self.run, self.config.environment, self.config.method, self.config.run.seed, trained)
        await asyncio.to_thread(write_summary, self.run, summary)
        await asyncio.to_thread(write_report, self.run, summary)
        return summary


@dataclass(frozen=True, slots=True)
class CommittedVersion:
    """A complete version of the policy's weights. `directory`: the folder with its files."""

    directory: Path
    version: PolicyVersion


def newest_version(weights: Path) -> CommittedVersion | None:
    """Returns the newest complete version in the folder `weights`, or None if there is no complete version.

    A version without the file `COMMITTED` is incomplete.
    """
    committed = sorted(path.parent for path in weights.glob("v*/COMMITTED"))
    if not committed:
        return None
    manifest = read_json(committed[-1] / "manifest.json")
    return CommittedVersion(committed[-1], msgspec.convert(manifest["version"], PolicyVersion))


async def served_digest(inference: AnyAddress) -> str:
    """Returns the digest of the weights that the policy server serves.

    Raises:
        LaunchError: the server does not report the digest.
    """
    try:
        async with PolicyClient(inference.url) as client:
            return (await client.version()).digest
    except ServiceError as error:
        raise LaunchError(f"the policy server does not report its weights: {error}") from error
