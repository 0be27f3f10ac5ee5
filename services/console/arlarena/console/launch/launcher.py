"""`arlarena up`: executes one run, from the configuration to the report (stages: pipeline.py).

Each service and each command of a stage is a separate process. `--resume` skips finished stages. The launcher restarts
a service that exits unexpectedly. At the end, and after an error, the launcher stops all processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from arlarena.console.attach.pipeline import AttachedPipeline
from arlarena.console.attach.preflight import check_before_attach
from arlarena.console.cli.invocation import command_line
from arlarena.console.launch.failures import Stopped
from arlarena.console.launch.pipeline import STAGES, Pipeline
from arlarena.console.launch.preflight import check_before_start
from arlarena.console.launch.progress import View
from arlarena.console.launch.run_page import RunPage
from arlarena.console.launch.supervisor import Supervisor
from arlarena.console.report.tables import kinds_table, scores_table
from arlarena.console.runconfig import RunConfig, masked_override
from arlarena.console.rundir import ExistingRunPolicy, RunDirectory
from arlarena.console.settings import ServiceAddresses, available_cores
from arlarena.console.stage import Stage
from arlarena.proto.config import ConfigError, read_with_secrets
from arlarena.proto.text.wording import counted, printable

TICK_S = 0.25  # interval between two updates of the view
# The umask of a run. Only the owner can read the run's files, because they contain secrets, prompts and weights.
PRIVATE = 0o077


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """The arguments of `arlarena up`."""

    config: Path
    overrides: tuple[str, ...] = ()
    seed: int | None = None
    directory: Path | None = None
    start: ExistingRunPolicy = ExistingRunPolicy.NEW
    plugins: tuple[str, ...] = ()
    addresses: ServiceAddresses | None = None  # with `--attach`: the services' addresses; None: start all services

    @property
    def command(self) -> str:
        """The command line of this request, without secrets."""
        words = ["up", str(self.config)]
        words += ["--seed", str(self.seed)] if self.seed is not None else []
        words += ["--run-dir", str(self.directory)] if self.directory is not None else []
        for text in self.overrides:
            words += ["--set", masked_override(text)]
        for module in self.plugins:
            words += ["--plugin", module]
        words += ["--attach"] if self.addresses else []
        return command_line(words)


async def prepare(request: LaunchRequest) -> tuple[RunConfig, RunDirectory]:
    """Check the configuration, then open the run directory. Returns the configuration and the run directory.

    If a finished run is resumed, services do not check the configuration.

    Raises:
        ConfigError, LaunchError: a check failed. No service was started, and no file of the run was changed.
    """
    config = RunConfig.load(request.config, request.overrides, request.seed, request.directory, request.plugins)
    run = RunDirectory(Path(config.run.directory))
    state = run.read_state(any_schema=request.start is ExistingRunPolicy.FRESH)
    resumes = request.start in (ExistingRunPolicy.RESUME, ExistingRunPolicy.CONTINUE)
    if state is None or not state.finished or not resumes:
        if request.addresses is not None:
            await check_before_attach(config, run.path, request.addresses)
        else:
            config = await check_before_start(config, run.path)
    if resumes and state is not None:
        _refuse_another_experiment(run, config)
    run.open(config.run.name, request.start, request.command)
    config = config.with_thread_budget(available_cores())
    config.write(run.config)
    return config, run


def _refuse_another_experiment(run: RunDirectory, new: RunConfig) -> None:
    old = RunConfig(run.config, read_with_secrets(run.config))
    if keys := old.differences(new):
        raise ConfigError(
            f"{run.path} was started with other values of {', '.join(keys)}: "
            f"either resume with `{resume_command(run)}`, or start a new run with --fresh"
        )


def resume_command(run: RunDirectory, *, attached: bool = False) -> str:
    """Returns the command that resumes a run. It needs no overrides: the run's `config.toml` contains them."""
    return command_line(["up", str(run.config), "--attach" if attached else "--resume"])


class StopSignals:
    """Handles SIGINT, SIGTERM and SIGHUP. The first signal calls `stop`. Each later signal calls `kill`."""

    def __init__(self, stop: Callable[[], object]) -> None:
        self.received: list[int] = []
        self.stop: Callable[[], object] = stop
        self.kill: Callable[[], object] = lambda: None

    def _handle(self, number: int) -> None:
        self.received.append(number)
        (self.stop if len(self.received) == 1 else self.kill)()

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Install the signal handlers in the running event loop. The end of the `with` block removes them."""
        loop, numbers = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, self._handle, number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


async def launch(
    config: RunConfig,
    run: RunDirectory,
    console: Console,
    signals: StopSignals,
    addresses: ServiceAddresses | None = None,
) -> dict[str, Any]:
    """Execute the run until it has finished or a signal arrives, then stop all processes. Returns the summary.

    `addresses`: with `--attach`, the addresses of the services. If it is None, the run starts its own services.

    Raises:
        LaunchError: the run failed.
        Stopped: a signal stopped the run.
    """

    def stop() -> None:
        view.notice("stopping … (press Ctrl-C again to kill all processes)")
        main.cancel()

    def kill() -> None:
        page.kill()
        supervisor.kill()

    services: Callable[[], dict[str, str]] = lambda: describe(supervisor)  # noqa: E731
    title = f"ARLArena · {config.method} on {config.environment} · seed {config.run.seed} · {run.path}"
    stages = make_stages(config, run)
    with View(title, stages, services, console=console, plain_interval_s=config.console.plain_interval_s) as view:
        supervisor = Supervisor(config.console, view.notice)
        pipeline = (
            Pipeline(config, run, view, supervisor)
            if addresses is None
            else AttachedPipeline(config, run, view, supervisor, addresses)
        )
        page = RunPage(run, config.console, supervisor.reaper, view.notice)
        if config.console.page and addresses is None:
            page.start()
        main = asyncio.ensure_future(_with_ticks(pipeline.execute(), view))
        signals.stop, signals.kill = stop, kill
        try:
            return await main
        except asyncio.CancelledError:
            if not signals.received:
                raise
            raise Stopped(signals.received[0], f"to resume: {resume_command(run, attached=bool(addresses))}") from None
        finally:
            pipeline.save()
            try:
                await page.close()
            finally:
                await supervisor.close()


async def _with_ticks(work: Awaitable[dict[str, Any]], view: View) -> dict[str, Any]:
    async def tick() -> None:
        while True:
            view.tick()
            await asyncio.sleep(TICK_S)

    ticking = asyncio.create_task(tick())
    try:
        return await work
    finally:
        ticking.cancel()


def make_stages(config: RunConfig, run: RunDirectory) -> list[Stage]:
    """Returns the stages of a run with their progress files."""
    counts = config.demonstrations
    sources = {
        "demonstrations": (run.log("demonstrations"), run.log("validation")),
        "clone": (run.progress("clone"),),
        "evaluate before": (run.log("evaluate-before"),),
        "train": (run.progress("train"),),
        "evaluate after": (run.log("evaluate-after"),),
    }
    totals = {"demonstrations": counts.demonstrations + counts.validation}
    steps = {"train": run.step("train")}
    return [Stage(name, sources.get(name, ()), totals.get(name), steps.get(name)) for name in STAGES]


def describe(supervisor: Supervisor) -> dict[str, str]:
    """Returns the state of each service as text, by the service's name."""
    return {
        name: service.state + (f" ({counted(service.restarts, 'restart')})" if service.restarts else "")
        for name, service in supervisor.services.items()
    }


async def _run(request: LaunchRequest, console: Console) -> tuple[RunDirectory, dict[str, Any]]:
    work = asyncio.current_task()
    assert work is not None
    signals = StopSignals(work.cancel)
    with signals.handled():
        console.print(Text(f"checking {printable(str(request.config))} and this machine …"), soft_wrap=True)
        try:
            config, run = await prepare(request)
        except asyncio.CancelledError:
            if not signals.received:
                raise
            raise Stopped(signals.received[0], "nothing was started") from None
        if run.moved_to is not None:
            console.print(Text(printable(f"The earlier run is kept in {run.moved_to}")), soft_wrap=True)
        try:
            return run, await launch(config, run, console, signals, request.addresses)
        finally:
            run.release()


def up(request: LaunchRequest, console: Console) -> dict[str, Any]:
    """Run `arlarena up`. Returns the summary of the run.

    Raises:
        ConfigError: the configuration is invalid. No service was started.
        LaunchError: the run failed.
        Stopped: a signal stopped the run.
    """
    os.umask(PRIVATE)  # all processes of the run inherit this mask
    run, summary = asyncio.run(_run(request, console))
    console.print(scores_table(summary))
    if (kinds := kinds_table(summary)) is not None:
        console.print(kinds)
    console.print(f"{run.summary}\n{run.report}", soft_wrap=True)
    return summary
