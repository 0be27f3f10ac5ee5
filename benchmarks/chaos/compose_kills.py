"""Kills random containers during a run, and checks that no group was lost or trained on twice.

    python -m benchmarks.chaos.compose_kills --kills 100 --out benchmarks/results/chaos_compose.json

The script needs a Docker engine with the images of `make images`. It starts the services of compose.yaml with its own
project name, secrets, ports and volumes. After the first training step, it begins to kill containers. There are
`--kills` kills. The containers are Redis, the four environment servers, the policy server, two rollout workers, the
trainer, the page, and `run` (which executes the stages). The script first kills each container once, in random order.
Then it chooses containers at random. The kills are spread evenly over the training steps, with random pauses. There are
two methods to kill a container:

* `stopped`: `docker kill`. Docker does not restart the container. The script starts it after up to `DOWN_S` seconds.
* `crashed`: the script sends SIGKILL to the first process of the container, from the host. Docker restarts the
  container (restart policy of compose.yaml). This method needs root rights on the Docker host. Without root rights, all
  kills are `stopped`.

After the end of the run, the script copies the run directory from its volume, and checks:

* `run`, trainer and workers have ended with exit status 0. All servers are healthy.
* Each issued group has exactly one outcome, and no group became a dead letter.
* Each group with the outcome "trained" is recorded at exactly one step. No other group is recorded.
* metrics.jsonl has one record for each step, and no sample is older than `[trainer] staleness`.
* All recorded episodes have the same rewards when they are played again.
* `arlarena verify` and `arlarena status` find no problem.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.chaos.run_checks import check_run
from benchmarks.support.compose_project import POLL_S, ComposeError, ComposeProject, docker
from benchmarks.support.paths import ROOT
from benchmarks.support.results import finish

CONFIG = ROOT / "benchmarks" / "chaos" / "run.toml"
SERVERS = ("redis", "sokoban", "alfworld", "webshop", "tir-math", "inference", "page")  # do not end by themselves
WORKING = ("run", "trainer", "rollout")  # end at the end of the run
SERVICES = (*SERVERS, *WORKING)
WORKERS = 2
DOWN_S = 4.0  # longest time until the script starts a stopped container
PAUSE_S = 3.0  # longest pause before a kill
START_LIMIT_S = 600.0  # time limit for the restart of a container, and for the wait for its final state


class Killer:
    """Kills containers of a Compose project during a training run.

    Attributes:
        containers: names of the containers to kill.
        kills: container → number of kills.
        kills_by_method: method (`stopped` or `crashed`) → number of kills.
    """

    def __init__(self, project: ComposeProject, rng: random.Random, steps: int) -> None:
        self._project, self._rng, self._steps = project, rng, steps
        self.containers = sorted(project.containers(*SERVICES))
        self.kills: Counter[str] = Counter()
        self.kills_by_method: Counter[str] = Counter()

    def run(self, count: int, limit_s: float) -> None:
        """Kill containers `count` times. The kills are spread over the training steps.

        Stop early after `limit_s` seconds, or when at most one training step is left.
        """
        deadline = time.monotonic() + limit_s
        targets = self._rng.sample(self.containers, len(self.containers))
        targets += self._rng.choices(self.containers, k=max(0, count - len(targets)))
        for number, container in enumerate(targets[:count]):
            # No kill is planned for the last two steps, because the services exit after the last step.
            step = max(1.0, (self._steps - 2) * number / count)
            while self._project.steps() < step and not self._near_end() and time.monotonic() < deadline:
                time.sleep(POLL_S)
            if self._near_end() or time.monotonic() >= deadline:
                return
            time.sleep(self._rng.uniform(0, PAUSE_S))
            self._kill(container)
            seconds, reached = time.monotonic() - deadline + limit_s, self._project.steps()
            print(f"{seconds:.0f} s: {number + 1} kills, step {reached}: {container}", file=sys.stderr, flush=True)

    def _kill(self, container: str) -> None:
        """Wait until the container runs, and kill it by a random method. After `docker kill`, start it again.

        If at most one training step is left, do nothing.
        """
        project = self._project
        project.until(lambda: project.state(container)["Running"] or self._near_end(), container, START_LIMIT_S)
        if self._near_end():
            return
        if self._rng.random() < 0.5 and self._crash(container):
            self.kills_by_method["crashed"] += 1
        else:
            docker("kill", container)
            time.sleep(self._rng.uniform(0, DOWN_S))
            docker("start", container)
            self.kills_by_method["stopped"] += 1
        self.kills[container.removeprefix(f"{self._project.name}-")] += 1

    def _near_end(self) -> bool:
        """Return whether the run has ended, or at most one training step is left."""
        return self._project.ended() is not None or self._project.steps() > self._steps - 2

    def _crash(self, container: str) -> bool:
        """Kill the first process of a container from the host. Return whether this succeeded."""
        state = self._project.state(container)
        identity = docker("inspect", "--format", "{{.Id}}", container).strip()
        try:
            if identity not in Path(f"/proc/{state['Pid']}/cgroup").read_text():
                return False  # the engine runs on another machine
            os.kill(state["Pid"], signal.SIGKILL)
        except OSError:
            return False
        return True


def kill_containers(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Start the services of compose.yaml, kill containers during the run, and check the run.

    Returns the results of the checks, the exit status of the run, and the numbers of kills. `folder`: for logs and a
    copy of the run directory.
    """
    config = folder / "run.toml"
    config.write_text(CONFIG.read_text().replace("\nsteps = 60\n", f"\nsteps = {arguments.steps}\n"))
    steps = tomllib.loads(config.read_text())["trainer"]["steps"]
    project = ComposeProject(arguments.project, folder, config, workers=WORKERS)
    began, run = time.monotonic(), folder / "run"
    try:
        project.compose("up", "--detach", "--pull", "never", "--no-build", *SERVICES)
        project.until(
            lambda: project.steps() >= 1 or project.ended() is not None, "the first step", 60 * arguments.minutes
        )
        killer, started = Killer(project, random.Random(arguments.seed), steps), time.monotonic()
        killer.run(arguments.kills, 60 * arguments.kill_minutes)
        killed_s = time.monotonic() - started
        project.until(lambda: project.ended() is not None, "the end of the run", 60 * arguments.minutes)
        exit_status = project.ended()
        problems = problems_at_end(project)
        (folder / "compose.log").write_text(project.compose("logs", "--timestamps"))
        shutil.rmtree(run, ignore_errors=True)
        project.copy("", run)
        engine = docker("version", "--format", "{{.Server.Version}}").strip()
    finally:
        if not arguments.leave:
            project.down()
    found = check_run(run)
    found["problems"] += problems
    return {
        **found, "exit": exit_status, "kills": sum(killer.kills.values()), "killed": dict(sorted(killer.kills.items())),
        "ways": dict(killer.kills_by_method), "seed": arguments.seed, "seconds": round(time.monotonic() - began, 1),
        "seconds_of_kills": round(killed_s, 1), "engine": engine, "load_average": round(os.getloadavg()[0], 2),
    }  # fmt: skip


def problems_at_end(project: ComposeProject) -> list[str]:
    """Wait until all servers are healthy, and `run`, trainer and workers have ended with exit status 0.

    Returns a description of each container that does not reach this state within `START_LIMIT_S`.
    """
    problems = []
    for container, service in project.containers(*SERVICES).items():
        done = project.is_healthy if service in SERVERS else project.has_succeeded
        with contextlib.suppress(ComposeError):
            project.until(functools.partial(done, container), container, START_LIMIT_S)
            continue
        problems.append(f"{container} at the end of the run: {project.state(container)}")
    return problems


def judge(arguments: argparse.Namespace, result: dict[str, Any]) -> dict[str, Any]:
    """Return the result with the key `passed`. Too few kills or a wrong exit status are further problems."""
    problems = result["problems"]
    if result["exit"] != 0:
        problems.append(f"exit status of run: {result['exit']}")
    if result["kills"] < arguments.kills:
        problems.append(f"the run ended after {result['kills']} of {arguments.kills} kills")
    return {"passed": not problems, **result}


def main() -> int:
    """Start a run, kill its containers, check the run and write the result. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="number of kills")
    # On two busy cores, a kill takes up to 20 s, and a step 3 to 8 s. With too few steps, the run ends before all
    # kills.
    parser.add_argument(
        "--steps", type=int, default=180, help="number of training steps; the kills are spread over them"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the kills")
    parser.add_argument("--minutes", type=float, default=60, help="time limit of each phase of the run in minutes")
    parser.add_argument("--kill-minutes", type=float, default=60, help="time limit of the kills in minutes")
    parser.add_argument("--project", default="arlarena-chaos", help="name of the Compose project")
    parser.add_argument("--leave", action="store_true", help="do not remove the containers at the end")
    parser.add_argument("--keep", type=Path, help="folder in which logs and the run directory are kept")
    parser.add_argument("--out", type=Path, help="file for the result")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="arlarena-chaos-") as temporary:
        folder = (arguments.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return int(finish(judge(arguments, kill_containers(arguments, folder)), arguments.out))
        except ComposeError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1


if __name__ == "__main__":
    sys.exit(main())
