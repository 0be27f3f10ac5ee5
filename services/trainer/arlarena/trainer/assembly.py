"""Builds the trainer from the arguments of the command line, and runs it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from arlarena.proto.http.metrics_port import served_metrics
from arlarena.proto.streams.queue import Streams
from arlarena.proto.streams.trainer_lease import TrainerLease
from arlarena.proto.telemetry import Logger
from arlarena.trainer.collector import Collector, Interrupted
from arlarena.trainer.learning.coordinator import Coordinator, worker_loop
from arlarena.trainer.learning.learner import Learner
from arlarena.trainer.learning.ranks import Ranks
from arlarena.trainer.learning.shared_restore import no_restore, receive_restore, restore_on_all_ranks
from arlarena.trainer.loop import Trainer
from arlarena.trainer.metrics.diagnostics import MetricsFile
from arlarena.trainer.metrics.progress import Progress
from arlarena.trainer.metrics.recorder import StepRecorder
from arlarena.trainer.metrics.step_alarms import StepAlarms
from arlarena.trainer.metrics.step_collector import StepCollector
from arlarena.trainer.metrics.trackers import TrackedRun, Trackers
from arlarena.trainer.model.policy import load_policy
from arlarena.trainer.objectives import Recipe
from arlarena.trainer.preflight import check_transport
from arlarena.trainer.settings import TrainerSettings, admin_token, load_recipe
from arlarena.trainer.state.checkpoint import CheckpointError, Checkpoints, TrainerState
from arlarena.trainer.state.tasks import draw_order, split_size
from arlarena.trainer.weights.collective import Broadcaster
from arlarena.trainer.weights.probe import Probe
from arlarena.trainer.weights.push import Publisher
from arlarena.trainer.weights.transports import Collective, Http, SharedDirectory, Transport
from arlarena.trainer.weights.versions import VersionStore, versions_after


@dataclass(frozen=True, slots=True)
class Invocation:
    """The arguments of one `train` command."""

    settings: TrainerSettings
    model: str
    run_dir: Path
    run_name: str
    redis_url: str
    inference_urls: tuple[str, ...]
    environment: str
    environment_url: str | None
    seed: int
    incarnation: str  # random id of this trainer process
    resume: bool


async def run_trainer(plan: Invocation, log: Logger, interrupted: Callable[[], str]) -> None:
    """Build the trainer, restore the newest checkpoint if `plan.resume` is set, and train.

    If torchrun starts several ranks (trainer processes), only rank 0 runs the training loop. The other ranks execute
    the calls of rank 0 in `worker_loop`.

    `interrupted`: returns the name of the signal that arrived, or "".

    Raises:
        Interrupted: a signal arrived.
        ConfigError, CheckpointError, ServiceError, PushError, RunError, StreamError, OSError: the run cannot start, or
            cannot continue.
    """
    settings = plan.settings
    method, warnings = load_recipe(settings)
    for warning in warnings:
        log.warning("recipe", reason=warning)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(plan.seed)
    if settings.deterministic and settings.torch_device() != "cpu":
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    ranks = Ranks.from_env()
    if ranks.is_main:  # a wrong `task_split` must end the run before the policy is loaded

        def stop() -> None:
            if name := interrupted():
                raise Interrupted(name)

        await split_size(plan.environment_url, plan.environment, settings, log, stop)
    learner = Learner(load_policy(plan.model), None, method, settings, ranks)
    log.info("device", device=str(learner.scorer.device), rank=ranks.index)
    if ranks.is_main:
        with TrainerLease.acquire(
            plan.redis_url,
            plan.run_name,
            plan.incarnation,
            ttl_s=settings.lease_ttl_s,
            timeout_s=settings.request_timeout_s,
        ) as lease:
            ranks.broadcast(b"the lease is held")
            await _run_first_rank(plan, learner, ranks, lease, method, log, interrupted)
    else:
        # Wait until rank 0 holds the lease of the run. Until then, another trainer may still write checkpoints.
        ranks.broadcast()
        receive_restore(learner, ranks)
        worker_loop(learner, ranks)
    ranks.shutdown()


def _load_checkpoint(
    plan: Invocation, learner: Learner, ranks: Ranks, log: Logger
) -> tuple[Checkpoints, TrainerState | None]:
    """Open the run's checkpoints. If `plan.resume` is set, load the newest checkpoint into the learners of all ranks.

    Returns the checkpoints, and the state of the loaded checkpoint (None if no checkpoint was loaded). Rank 0 calls
    this function, and the other ranks call `receive_restore`.

    Raises:
        CheckpointError: in three cases. `plan.resume` is not set, but the run has checkpoints. `plan.resume` is set,
            but the checkpoint cannot be loaded. The run directory has weights but no checkpoint, and a new run would
            delete these weights.
    """
    checkpoints = Checkpoints(plan.run_dir / "checkpoints", plan.settings.keep_checkpoints)
    if not checkpoints.committed() and (later := versions_after(plan.run_dir / "weights", 0)):
        raise CheckpointError(
            f"{plan.run_dir} contains weights of a run ({later[-1].name}) but no checkpoint: give another --run-dir"
        )
    if plan.resume:
        state = checkpoints.load_latest(partial(restore_on_all_ranks, learner, ranks), log)
        if state is None:
            no_restore(ranks)
        return checkpoints, state
    if checkpoints.committed():
        raise CheckpointError(
            f"{plan.run_dir} contains checkpoints of a run: either give --resume to continue this run, or give another "
            f"--run-dir"
        )
    no_restore(ranks)
    return checkpoints, None


async def _run_first_rank(
    plan: Invocation,
    learner: Learner,
    ranks: Ranks,
    lease: TrainerLease,
    method: Recipe,
    log: Logger,
    interrupted: Callable[[], str],
) -> None:
    checkpoints, restored = _load_checkpoint(plan, learner, ranks, log)
    coordinator = Coordinator(learner)
    try:
        await _train(plan, coordinator, lease, method, checkpoints, restored, log, interrupted)
    finally:
        coordinator.stop()


async def _train(
    plan: Invocation,
    learner: Coordinator,
    lease: TrainerLease,
    method: Recipe,
    checkpoints: Checkpoints,
    restored: TrainerState | None,
    log: Logger,
    interrupted: Callable[[], str],
) -> None:
    settings, state, vocabulary = plan.settings, restored or TrainerState(), learner.policy.config.vocab_size

    def guard() -> None:
        if name := interrupted():
            raise Interrupted(name)
        lease.check()

    order = await draw_order(plan.environment_url, plan.environment, settings, plan.seed, state, log, guard)
    versions, metrics, flows = _files(plan, state.step)
    recorder = StepRecorder(plan.run_dir, settings, method, plan.seed, log)
    recorder.discard_after(state.step)
    log.info("start", recipe=method.name, step=state.step, resumed=restored is not None, incarnation=plan.incarnation)
    collector = StepCollector(plan.run_name, state.step)
    async with AsyncExitStack() as stack:
        stack.enter_context(served_metrics(collector, settings.metrics_host, settings.metrics_port, log))
        streams = await stack.enter_async_context(
            await Streams.connect(
                plan.redis_url, plan.run_name, timeout_s=settings.request_timeout_s, fencing_token=lease.token
            )
        )
        if restored is None:
            await streams.reset()
        trainer = Trainer(
            settings=settings,
            state=state,
            learner=learner,
            lease=lease,
            collector=Collector(streams, settings, method, state, plan.environment, order, vocabulary, log, guard),
            versions=versions,
            probe=Probe.spread(vocabulary, settings.probe_tolerance),
            publisher=_publisher(plan, log),
            checkpoints=checkpoints,
            metrics=metrics,
            flows=flows,
            trackers=_trackers(plan, state.step, log, collector),
            recorder=recorder,
            alarms=StepAlarms(settings, log),
            progress=Progress(plan.run_dir, "train", settings.steps),
            run=plan.run_dir,
            seed=plan.seed,
            log=log,
            guard=guard,
        )
        await trainer.train(resumed=restored is not None)


def _files(plan: Invocation, step: int) -> tuple[VersionStore, MetricsFile, MetricsFile]:
    """Open the version store (the published weights), metrics.jsonl and flows.jsonl.

    Data of steps after `step` are removed, because a previous process may have written data after its last checkpoint.
    """
    settings = plan.settings
    # Workers and servers may still read the second newest version, so at least two versions are kept.
    kept = settings.keep_checkpoints + 1
    dtype = getattr(torch, settings.publish_dtype)
    versions = VersionStore(plan.run_dir / "weights", Path(plan.model), plan.incarnation, kept, dtype)
    versions.discard_after(step)
    metrics, flows = (MetricsFile(plan.run_dir / name) for name in ("metrics.jsonl", "flows.jsonl"))
    for file in (metrics, flows):
        file.remove_after(step)
    return versions, metrics, flows


def _trackers(plan: Invocation, step: int, log: Logger, collector: StepCollector) -> Trackers:
    parameters = plan.settings.model_dump(mode="json") | {"environment": plan.environment, "seed": plan.seed}
    return Trackers(plan.settings.trackers, TrackedRun(plan.run_name, plan.run_dir, step, parameters), log, collector)


def _publisher(plan: Invocation, log: Logger) -> Publisher:
    transport, retry_timeout_s = transport_of(plan.settings, log), plan.settings.push_retry_timeout_s
    return Publisher(plan.inference_urls, transport, token=admin_token(), retry_timeout_s=retry_timeout_s, log=log)


def transport_of(settings: TrainerSettings, log: Logger) -> Transport:
    """Create the transport (how new weights reach the policy servers) that the setting `push_transport` selects.

    Raises:
        ConfigError: `push_transport` is "nccl", but there is no GPU.
    """
    kind = settings.push_transport
    if kind == "shared":
        return SharedDirectory()
    if kind == "http":
        return Http(settings.full_push_every)
    check_transport(settings)
    device = torch.device("cpu" if kind == "gloo" else settings.torch_device())
    return Collective(Broadcaster(settings.broadcast_host, kind, device, log))
