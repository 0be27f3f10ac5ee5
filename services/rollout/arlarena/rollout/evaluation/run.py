"""Runs an evaluation: opens environments and the model, writes the plan, plays the attempts, and shows the results."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from rich.console import Console

from arlarena.proto.config import print_error
from arlarena.proto.text.wording import counted
from arlarena.rollout.evaluation.interrupts import Interrupts
from arlarena.rollout.evaluation.models.protocol import ChatModel, SamplingRequest
from arlarena.rollout.evaluation.models.registry import open_model
from arlarena.rollout.evaluation.openenv.rules import OpenEnvSettings
from arlarena.rollout.evaluation.play.budgets import BudgetMeter, Price, no_price
from arlarena.rollout.evaluation.play.caller import ModelAccess
from arlarena.rollout.evaluation.play.journal import Journal
from arlarena.rollout.evaluation.play.limits import RequestGate
from arlarena.rollout.evaluation.play.pictures import PictureStore
from arlarena.rollout.evaluation.play.resume import EvaluationHistory, check_plan, write_plan
from arlarena.rollout.evaluation.play.scheduler import EvaluatedEnvironment, EvaluationOutcome, EvaluationRun
from arlarena.rollout.evaluation.play.slots import PlayLimits
from arlarena.rollout.evaluation.records import AttemptRecord, EvaluationPlan
from arlarena.rollout.evaluation.report.cost import dollars
from arlarena.rollout.evaluation.report.finish import summarise, write_results
from arlarena.rollout.evaluation.report.prices import ModelPrice
from arlarena.rollout.evaluation.report.terminal import EvaluationView, shown
from arlarena.rollout.evaluation.start.checkpoint import checkpoint_name, is_checkpoint
from arlarena.rollout.evaluation.start.checks import POLICY, check_options, notes
from arlarena.rollout.evaluation.start.dry_run import describe_requests
from arlarena.rollout.evaluation.start.environments import EnvironmentChoice, OpenedEnvironment, choices_of, opened
from arlarena.rollout.evaluation.start.local_service import LocalServices
from arlarena.rollout.evaluation.start.openenv_options import openenv_settings
from arlarena.rollout.evaluation.start.options import EvaluateOptions
from arlarena.rollout.evaluation.start.planning import plan_of
from arlarena.rollout.evaluation.start.players import PERSON, SCRIPTED, check_player, player_of
from arlarena.rollout.evaluation.statistics.intervals import preload
from arlarena.rollout.settings import RolloutSettings, load_rollout

SESSIONS_PER_REQUEST = 2  # more sessions than requests, because some sessions wait for the environment
CAUSES = 3  # maximum number of errors that are printed at the end
TICK_S = 1.0  # seconds between updates of the view
SERVICES = "services"  # folder of the configurations and logs of started services


async def evaluate(options: EvaluateOptions, console: Console) -> int:
    """Run or resume an evaluation. Returns the exit status.

    The exit status is 0 after a dry run, or if all attempts are scored. If attempts without a score remain, the exit
    status is 128 + n after signal n, and 1 without a signal.

    Raises:
        ConfigError: an option is invalid. No request was sent to the model.
        EvaluationError: the evaluation cannot start or cannot continue. The journal contains all results so far.
        ServiceError: an environment server does not answer.
    """
    name = checkpoint_name(options.model) if is_checkpoint(options.model) else options.model
    settings = load_rollout(options.config)
    choices = choices_of(options.environments, options.options, options.set_name)
    openenv = openenv_settings(options.openenv, choices)
    price = await check_options(options, name)
    with Interrupts() as interrupts:
        try:
            has_unfinished = await _evaluate(options, name, settings, choices, openenv, price, interrupts, console)
        except asyncio.CancelledError:
            if interrupts.received is None:
                raise
            print_error(f"stopped by {interrupts.received.name}; to continue, run the same command with the same --out")
            has_unfinished = True
    return (interrupts.exit_status or 1) if has_unfinished else 0


async def _evaluate(
    options: EvaluateOptions,
    name: str,
    settings: RolloutSettings,
    choices: Sequence[EnvironmentChoice],
    openenv: OpenEnvSettings | None,
    price: ModelPrice | None,
    interrupts: Interrupts,
    console: Console,
) -> bool:
    """Start the services, play the attempts, and show the results. Returns whether attempts without a score remain."""
    sessions = options.limits.concurrency * SESSIONS_PER_REQUEST
    async with AsyncExitStack() as stack:
        services = await stack.enter_async_context(LocalServices(_services_directory(options, stack)))
        found = await stack.enter_async_context(
            opened(choices, services, settings, sessions=sessions, expert=options.model == "expert", openenv=openenv)
        )
        for one in found:
            check_player(options.model, one)
        plan = await plan_of(options, name, found, settings)
        if options.dry_run:
            console.print(await describe_requests(options, plan, found, price), soft_wrap=True, markup=False)
            return False
        check_plan(options.directory, plan)
        for note in notes(options):
            console.print(note, soft_wrap=True, markup=False)
        model = await stack.enter_async_context(_model(options, services))
        outcome = await _play(options, plan, found, model, price, sessions, services, interrupts, console)
    write_results(options.directory, price, console)
    if outcome.stopped:
        unfinished = f"{counted(outcome.remaining, 'attempt')} not finished"
        console.print(f"stopped: {outcome.stopped}; {unfinished}", soft_wrap=not console.is_terminal, markup=False)
        # soft_wrap adds no line breaks, so the user can copy the command.
        console.print(f"resume with the same command and --out {options.directory}", soft_wrap=True, markup=False)
    for line in causes(outcome.results.values()):
        console.print(line, soft_wrap=True, markup=False)
    if outcome.possibly_charged:
        console.print(f"possibly charged without a reply: {counted(outcome.possibly_charged, 'request')}")
    return bool(outcome.remaining)


def causes(records: Iterable[AttemptRecord]) -> list[str]:
    """Return one line for each of the `CAUSES` most frequent errors of attempts without a score."""
    errors = Counter(record.error for record in records if not record.scored and record.error)
    return [f"not scored, {counted(count, 'attempt')}: {shown(error)}" for error, count in errors.most_common(CAUSES)]


def _services_directory(options: EvaluateOptions, stack: AsyncExitStack) -> Path:
    """Return the folder for the configurations and logs of services. A dry run uses a temporary folder."""
    if options.dry_run:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="arlarena-dry-run-")))
    return options.directory / SERVICES


@asynccontextmanager
async def _model(options: EvaluateOptions, services: LocalServices) -> AsyncIterator[ChatModel | None]:
    """Yield the model, or None for a player without a model. For a checkpoint, start a policy server."""
    if options.model in SCRIPTED:
        yield None
        return
    text, base_url = options.model, options.base_url
    if is_checkpoint(text):
        arguments = ["--model", str(Path(text).expanduser())]
        arguments += ["--config", str(options.config)] if options.config else []
        base_url = await services.start("arlarena.inference", arguments, "inference", f"the policy server of {text}")
        text = POLICY
    model = open_model(text, base_url=base_url, sees_images=options.images)
    try:
        yield model
    finally:
        await model.close()


async def _play(
    options: EvaluateOptions,
    plan: EvaluationPlan,
    found: Sequence[OpenedEnvironment],
    model: ChatModel | None,
    price: ModelPrice | None,
    sessions: int,
    services: LocalServices,
    interrupts: Interrupts,
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
        live = options.model != PERSON  # a live view would disturb a person who types on this terminal
        view = EvaluationView(title, totals, summarise(), plan.attempts, price=price, console=console, live=live)
        if access is not None:
            access.notice = view.notice
        run = EvaluationRun(
            plan,
            _played(options, plan, found, model),
            journal,
            history,
            access,
            limits=PlayLimits(sessions=sessions, one_by_one=options.model == PERSON),
            on_end=lambda progress: view.add(progress.record),
        )
        for record in history.results.values():
            view.add(record, earlier=True)
        interrupts.stop = run.stop
        preload()
        with view:
            return await _ticking(run, view, services)
    finally:
        interrupts.stop = None
        await journal.close()


async def _ticking(run: EvaluationRun, view: EvaluationView, services: LocalServices) -> EvaluationOutcome:
    """Play the attempts, and update the view every `TICK_S` seconds. If a service ends, stop the evaluation."""
    playing, failing = asyncio.ensure_future(run.run()), asyncio.ensure_future(services.failed())
    try:
        while not playing.done():
            await asyncio.wait([playing], timeout=TICK_S)
            if failing.done() and not playing.done():
                run.stop(failing.result())
            view.tick()
        return playing.result()
    finally:
        for task in (playing, failing):
            task.cancel()
        await asyncio.gather(playing, failing, return_exceptions=True)


def _access(
    options: EvaluateOptions,
    plan: EvaluationPlan,
    found: Sequence[OpenedEnvironment],
    model: ChatModel,
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
    """Return `sampling` with the environments' stop strings. If environments have different ones, use no stop strings.

    Stop strings only save tokens, because an environment ignores the text after a stop string.
    """
    stops = {tuple(one.info.stop) for one in found}
    (stop,) = stops if len(stops) == 1 else ((),)
    return SamplingRequest(sampling.temperature, sampling.top_p, sampling.max_tokens, stop, sampling.extra)


def _played(
    options: EvaluateOptions, plan: EvaluationPlan, found: Sequence[OpenedEnvironment], model: ChatModel | None
) -> Mapping[str, EvaluatedEnvironment]:
    pictures = model is not None and model.sees_images
    return {
        one.name: EvaluatedEnvironment(
            one.client,
            player_of(options.model, plan.strategy, plan.strategy_options, one.info),
            PictureStore.of(options.directory, one.own_client) if pictures and one.own_client else None,
        )
        for one in found
    }
