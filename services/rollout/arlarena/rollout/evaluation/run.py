"""Runs an evaluation: opens environments and model, writes the plan, plays the attempts, and shows the results."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from arlarena.proto.config import ConfigError
from arlarena.rollout.evaluation.errors import EvaluationStopped
from arlarena.rollout.evaluation.models.protocol import Model, SamplingRequest
from arlarena.rollout.evaluation.models.registry import open_model
from arlarena.rollout.evaluation.play.budgets import BudgetMeter, Price, no_price
from arlarena.rollout.evaluation.play.caller import ModelAccess
from arlarena.rollout.evaluation.play.journal import Journal
from arlarena.rollout.evaluation.play.limits import RequestGate
from arlarena.rollout.evaluation.play.pictures import PictureStore
from arlarena.rollout.evaluation.play.resume import EvaluationHistory, write_plan
from arlarena.rollout.evaluation.play.scheduler import EvaluationOutcome, EvaluationRun, PlayedEnvironment
from arlarena.rollout.evaluation.play.slots import PlayLimits
from arlarena.rollout.evaluation.records import EvaluationPlan
from arlarena.rollout.evaluation.report.cost import dollars
from arlarena.rollout.evaluation.report.finish import summarise, write_results
from arlarena.rollout.evaluation.report.prices import ModelPrice, read_prices
from arlarena.rollout.evaluation.report.terminal import EvaluationView
from arlarena.rollout.evaluation.sets.standard import find_set
from arlarena.rollout.evaluation.start.checkpoint import checkpoint_name, is_checkpoint
from arlarena.rollout.evaluation.start.dry_run import describe_requests
from arlarena.rollout.evaluation.start.environments import OpenedEnvironment, choices_of, opened
from arlarena.rollout.evaluation.start.local_service import local_service
from arlarena.rollout.evaluation.start.options import EvaluateOptions
from arlarena.rollout.evaluation.start.planning import plan_of
from arlarena.rollout.evaluation.start.players import SCRIPTED, player_of
from arlarena.rollout.settings import load_rollout

SESSIONS_PER_REQUEST = 1.5  # sessions that wait for the environment send no request
TICK_S = 1.0
SERVICES = "services"  # folder of the configurations and logs of started services


async def evaluate(options: EvaluateOptions, console: Console) -> int:
    """Run or resume an evaluation. Returns the exit status: 0 if all attempts are scored, 1 otherwise.

    Raises:
        ConfigError: an option is invalid. Nothing was started or sent.
        EvaluationError: the evaluation cannot start or go on. What happened is in the journal.
        ServiceError: an environment server does not answer.
    """
    name = checkpoint_name(options.model) if is_checkpoint(options.model) else options.model
    settings = load_rollout(options.config)
    sessions = max(1, round(options.limits.concurrency * SESSIONS_PER_REQUEST))
    choices = choices_of(options.environments, options.options, options.set_name)
    async with AsyncExitStack() as stack:
        # A dry run leaves no files.
        dry = Path(stack.enter_context(TemporaryDirectory())) if options.dry_run else None
        services = dry or options.directory / SERVICES
        found = await stack.enter_async_context(
            opened(choices, services, settings, sessions=sessions, expert_splits=_expert_splits(options))
        )
        plan = await plan_of(options, name, found, settings)
        price = read_prices(options.prices).price(name, options.base_url or "")
        if options.dry_run:
            console.print(await describe_requests(options, plan, found, price), soft_wrap=True)
            return 0
        model = await stack.enter_async_context(_model(options, name))
        outcome = await _play(options, plan, found, model, price, sessions, console)
    write_results(options.directory, price, console)
    if outcome.stopped:
        console.print(f"stopped: {outcome.stopped}; {outcome.remaining} attempts remain, the same command goes on")
    if outcome.possibly_charged:
        console.print(f"{outcome.possibly_charged} requests without a reply were possibly charged")
    return 1 if outcome.remaining else 0


def _expert_splits(options: EvaluateOptions) -> list[str]:
    """Return the splits in which a started server gives expert replies: none unless the expert is evaluated."""
    if options.model != "expert":
        return []
    chosen = [options.tasks.split] if options.tasks.split else []
    chosen += [find_set(options.set_name).split] if options.set_name else []
    return sorted({"train", "validation", "test", *chosen})


@asynccontextmanager
async def _model(options: EvaluateOptions, name: str) -> AsyncIterator[Model | None]:
    """Yield the model, or None if the player needs none. The policy server of a checkpoint is started."""
    if options.model in SCRIPTED:
        yield None
        return
    async with AsyncExitStack() as stack:
        text, base_url = options.model, options.base_url
        if is_checkpoint(options.model):
            if base_url:
                raise ConfigError("--base-url is for a running server; a checkpoint's policy server is started here")
            arguments = ["--model", options.model, "--port", "0"]
            arguments += ["--config", str(options.config)] if options.config else []
            log = options.directory / SERVICES / "inference.log"
            base_url = await stack.enter_async_context(
                local_service("arlarena.inference", arguments, log, f"the policy server of {options.model}")
            )
            text = "compatible/policy"  # the name by which the policy server always serves its policy
        model = open_model(text, base_url=base_url, sees_images=options.images)
        try:
            yield model
        finally:
            await model.close()


async def _play(
    options: EvaluateOptions,
    plan: EvaluationPlan,
    found: Sequence[OpenedEnvironment],
    model: Model | None,
    price: ModelPrice | None,
    sessions: int,
    console: Console,
) -> EvaluationOutcome:
    options.directory.mkdir(parents=True, exist_ok=True)
    journal = Journal(options.directory)
    try:
        write_plan(options.directory, plan)
        history = EvaluationHistory.read(options.directory)
        access = None if model is None else _access(options, plan, found, model, journal, price)
        totals = {one.name: len(one.indices) * plan.attempts for one in plan.environments}
        title = f"{plan.model}, {plan.strategy}"
        view = EvaluationView(title, totals, summarise(), plan.attempts, price=price, console=console)
        run = EvaluationRun(
            plan,
            _played(options, plan, found, model),
            journal,
            history,
            access,
            limits=PlayLimits(sessions=sessions),
            on_end=lambda progress: view.add(progress.record),
        )
        for record in history.results.values():
            view.add(record, earlier=True)
        with view, _stop_on_signals(run):
            return await _ticking(run, view)
    finally:
        await journal.close()


async def _ticking(run: EvaluationRun, view: EvaluationView) -> EvaluationOutcome:
    """Play, and let the view print a line now and then."""
    playing = asyncio.ensure_future(run.run())
    try:
        while not playing.done():
            await asyncio.wait([playing], timeout=TICK_S)
            view.tick()
        return playing.result()
    finally:
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)


@contextlib.contextmanager
def _stop_on_signals(run: EvaluationRun) -> Iterator[None]:
    """At SIGINT or SIGTERM, end the evaluation: requests in flight end and are recorded."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, run.stop, EvaluationStopped(f"{signal.Signals(number).name} was received"))
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _access(
    options: EvaluateOptions,
    plan: EvaluationPlan,
    found: Sequence[OpenedEnvironment],
    model: Model,
    journal: Journal,
    price: ModelPrice | None,
) -> ModelAccess:
    price_of: Price = no_price if price is None else lambda usage: dollars(usage, price)
    return ModelAccess(
        model,
        sampling_for(options.sampling, found),
        RequestGate(options.limits),
        BudgetMeter(options.budgets, price_of),
        journal,
    )


def sampling_for(sampling: SamplingRequest, found: Sequence[OpenedEnvironment]) -> SamplingRequest:
    """Return the sampling with the stop strings of the environments, if all have the same. They only save tokens:
    an environment ignores the text after a stop string.
    """
    stops = {tuple(one.info.stop) for one in found}
    (stop,) = stops if len(stops) == 1 else ((),)
    return SamplingRequest(sampling.temperature, sampling.top_p, sampling.max_tokens, stop, sampling.extra)


def _played(
    options: EvaluateOptions, plan: EvaluationPlan, found: Sequence[OpenedEnvironment], model: Model | None
) -> Mapping[str, PlayedEnvironment]:
    pictures = model is not None and model.sees_images
    return {
        one.name: PlayedEnvironment(
            one.client,
            player_of(options.model, plan.strategy, plan.strategy_options, one.info),
            PictureStore.of(options.directory, one.client) if pictures else None,
        )
        for one in found
    }
