"""`arlarena up`: one run from its configuration to its report, every part a process of its own (stages: pipeline.py).

A stage that finished is not done again by `--resume`; a service that dies is restarted; whatever happens, nothing is
left running.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from arlarena.console.failures import LaunchError
from arlarena.console.pipeline import STAGES, Pipeline
from arlarena.console.progress import View
from arlarena.console.runconfig import RunConfig, check_everywhere
from arlarena.console.rundir import RunDirectory, Start
from arlarena.console.settings import available_cores
from arlarena.console.stage import Stage
from arlarena.console.summary import kinds_table, table
from arlarena.console.supervisor import Supervisor
from arlarena.proto.config import ConfigError, read_file

TICK_S = 0.25


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for."""

    config: Path
    overrides: tuple[str, ...] = ()
    seed: int | None = None
    directory: Path | None = None
    start: Start = Start.NEW


def prepare(request: Request) -> tuple[RunConfig, RunDirectory]:
    """Check the configuration with every service, then open the run's directory.

    Raises:
        ConfigError: something is wrong, and nothing was started or changed.
    """
    config = RunConfig.load(request.config, request.overrides, request.seed, request.directory)
    asyncio.run(check_everywhere(config))
    run = RunDirectory(Path(config.run.directory))
    if request.start is Start.RESUME and run.read_state() is not None:
        _refuse_another_experiment(RunConfig(run.config, read_file(run.config)), config)
    run.open(config.run.name, request.start)
    config = config.with_thread_budget(available_cores())
    config.write(run.config)
    return config, run


def _refuse_another_experiment(old: RunConfig, new: RunConfig) -> None:
    if keys := old.differences(new):
        raise ConfigError(
            f"{old.source.parent} was started with other settings ({', '.join(keys)}): "
            f"resume with `arlarena up {old.source} --resume`, or begin anew with --fresh"
        )


@contextlib.contextmanager
def stop_on_signals(stop: Callable[[int], None]) -> Iterator[None]:
    """Hand SIGINT, SIGTERM and SIGHUP to `stop`."""
    loop, numbers = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def launch(config: RunConfig, run: RunDirectory, console: Console) -> dict[str, Any]:
    """Run to the end, or to a signal; either way nothing is left running.

    Raises:
        LaunchError: the run failed, or was stopped (exit status 128 + signal).
    """
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        if len(received) == 1:
            view.notice("stopping (once more: at once)")
            main.cancel()
        else:
            supervisor.kill()

    services: Callable[[], dict[str, str]] = lambda: describe(supervisor)  # noqa: E731
    title = f"ARLArena · {config.method} on {config.environment} · seed {config.run.seed} · {run.path}"
    stages = make_stages(config, run)
    with View(title, stages, services, console=console, plain_interval_s=config.console.plain_interval_s) as view:
        supervisor = Supervisor(config.console, view.notice)
        pipeline = Pipeline(config, run, view, supervisor)
        main = asyncio.ensure_future(_with_ticks(pipeline.execute(), view))
        with stop_on_signals(stop):
            try:
                return await main
            except asyncio.CancelledError:
                name = signal.Signals(received[0]).name if received else "cancellation"
                hint = "--resume goes on from here"
                raise LaunchError(f"stopped by {name}; {hint}", 128 + received[0] if received else 1) from None
            finally:
                pipeline.save()
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
    """The stages of a run, each with the files in which it writes its progress."""
    counts = config.demonstrations
    sources = {
        "demonstrations": (run.log("demonstrations"), run.log("validation")),
        "clone": (run.progress("clone"),),
        "evaluate before": (run.log("evaluate-before"),),
        "train": (run.progress("train"),),
        "evaluate after": (run.log("evaluate-after"),),
    }
    totals = {"demonstrations": counts.demonstrations + counts.validation}
    return [Stage(name, sources.get(name, ()), totals.get(name)) for name in STAGES]


def describe(supervisor: Supervisor) -> dict[str, str]:
    """State of every service, for the view."""
    return {
        name: service.state + (f" ({service.restarts} restarts)" if service.restarts else "")
        for name, service in supervisor.services.items()
    }


def up(request: Request, console: Console) -> dict[str, Any]:
    """`arlarena up`.

    Raises:
        ConfigError: the configuration cannot be used, and nothing was started.
        LaunchError: the run failed or was stopped.
    """
    config, run = prepare(request)
    try:
        summary = asyncio.run(launch(config, run, console))
    finally:
        run.release()
    console.print(table(summary))
    if (kinds := kinds_table(summary)) is not None:
        console.print(kinds)
    console.print(f"{run.summary}\n{run.report}", soft_wrap=True)
    return summary
