"""Trains on a simulated cluster during a network partition and the loss of a host, and checks the run.

    python -m benchmarks.chaos.cluster --out benchmarks/results/cluster.json

The script needs a Docker engine with the images of `make images`. cluster.yaml simulates all hosts on one machine. Host
A and host B each have an environment server, a policy server, a rollout worker and a trainer rank. The control host has
Redis, the gateway of the policy servers, and `run`. Host A has its own network, and host B too. The network `fabric`
connects all hosts.

* After a quarter of the steps, the script disconnects all containers of host B from the other hosts for `--partition`
  seconds.
* After half of the steps, the script kills all containers of host B. `--lost` seconds later, it starts new containers.

At the end, the script checks the run directory, as `benchmarks.chaos.compose_kills` does.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

from benchmarks.chaos.run_checks import check_run
from benchmarks.support.compose_project import ComposeError, ComposeProject, docker
from benchmarks.support.paths import ROOT
from benchmarks.support.results import finish

FOLDER = ROOT / "benchmarks" / "chaos"
CONTROL = ("redis", "run")
GATEWAY = "gateway"
SERVERS = ("sokoban", "replica", "rollout", "trainer")  # the services of host A and of host B
HOSTS = {"a": tuple(f"{name}-0" for name in SERVERS), "b": tuple(f"{name}-1" for name in SERVERS)}
FABRIC = "fabric"
RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def configuration(steps: int) -> str:
    """Return the text of run.toml with three changes: `steps` steps, weight transfer over HTTP, and the rank variables.

    cluster.yaml sets the rank variables (`RANK_VARIABLES`). The changed configuration passes them on to the trainer.
    """
    text = (FOLDER / "run.toml").read_text().replace("\nsteps = 60\n", f"\nsteps = {steps}\n")
    text = text.replace("\n[trainer]\n", '\n[trainer]\npush_transport = "http"\n')
    return text.replace("\n[console]\n", f"\n[console]\npass_environment = {json.dumps(list(RANK_VARIABLES))}\n")


class Cluster:
    """The containers of the simulated hosts.

    Attributes:
        project: the Compose project of the containers.
        events: the begin and end of each partition and of each loss of a host. Each event has the number of recorded
            training steps, and the seconds since the start.
    """

    def __init__(self, project: ComposeProject, steps: int, limit_s: float) -> None:
        self.project, self._steps, self._limit_s = project, steps, limit_s
        self.events: list[dict[str, Any]] = []
        self._began = time.monotonic()

    def start(self) -> None:
        """Start Redis, `run` and the environment servers. After behaviour cloning, start all other containers."""
        up = ("up", "--detach", "--pull", "never", "--no-build")
        self.project.compose(*up, *CONTROL, "sokoban-0", "sokoban-1")
        self._until(lambda: "clone" in self.project.stages(), "stage clone")
        self.project.compose(*up, GATEWAY, *HOSTS["a"], *HOSTS["b"])

    def reach(self, step: int) -> None:
        """Wait until the trainer has recorded the training step `step`.

        Raises:
            ComposeError: the run ended before this step, or the time limit is over.
        """
        self._until(lambda: self.project.steps() >= step or self.project.ended() is not None, f"step {step}")
        if self.project.steps() < step:
            raise ComposeError(f"the run ended before step {step}: {self.project.compose('logs', '--tail', '20')}")

    def partition(self, host: str, seconds: float) -> None:
        """Disconnect all containers of host `host` ("a" or "b") from the other hosts for `seconds`."""
        network = f"{self.project.name}_{FABRIC}"
        endpoints = {name: self._endpoint(name, network) for name in self.project.containers(*HOSTS[host])}
        self._note("partition", host)
        for name in endpoints:
            docker("network", "disconnect", network, name)
        time.sleep(seconds)
        for name, (address, aliases) in endpoints.items():
            options = [word for alias in aliases for word in ("--alias", alias)]
            docker("network", "connect", "--ip", address, *options, network, name)
        self._note("partition ended", host)

    def lose(self, host: str, seconds: float) -> None:
        """Kill all containers of host `host` ("a" or "b"). After `seconds`, start new containers for this host."""
        self._note("host lost", host)
        docker("kill", *self.project.containers(*HOSTS[host]))
        time.sleep(seconds)
        self.project.compose("rm", "--force", *HOSTS[host])
        self.project.compose("up", "--detach", "--pull", "never", "--no-build", "--no-deps", *HOSTS[host])
        self._note("new host", host)

    def end(self) -> int | None:
        """Wait until the run has ended. Return the exit status of the container `run`."""
        self._until(lambda: self.project.ended() is not None, "the end of the run")
        return self.project.ended()

    def _endpoint(self, container: str, network: str) -> tuple[str, list[str]]:
        """Return (IP address, aliases) of a container in a Docker network."""
        template = '{{json (index .NetworkSettings.Networks "' + network + '")}}'
        found = json.loads(docker("inspect", "--format", template, container))
        return found["IPAMConfig"]["IPv4Address"], found["Aliases"] or []

    def _note(self, event: str, host: str) -> None:
        seconds = round(time.monotonic() - self._began, 1)
        self.events.append({"event": event, "host": host, "step": self.project.steps(), "seconds": seconds})
        print(self.events[-1], file=sys.stderr, flush=True)

    def _until(self, condition: Any, event: str) -> None:
        self.project.until(condition, event, self._limit_s)


def train(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train on the simulated cluster, with a partition and the loss of a host.

    Returns the results of the checks, the exit status, the events and the duration.
    """
    config, run = folder / "run.toml", folder / "run"
    config.write_text(configuration(arguments.steps))
    assert tomllib.loads(config.read_text())["trainer"]["steps"] == arguments.steps
    project = ComposeProject(arguments.project, folder, config, files=[FOLDER / "cluster.yaml"])
    began, cluster = time.monotonic(), Cluster(project, arguments.steps, 60 * arguments.minutes)
    try:
        cluster.start()
        cluster.reach(max(1, arguments.steps // 4))
        cluster.partition("b", arguments.partition)
        cluster.reach(arguments.steps // 2)
        cluster.lose("b", arguments.lost)
        exit_status = cluster.end()
        shutil.rmtree(run, ignore_errors=True)
        project.copy("", run)
    finally:
        (folder / "compose.log").write_text(project.compose("logs", "--timestamps"))
        if not arguments.leave:
            project.down()
    seconds = {"seconds": round(time.monotonic() - began, 1), "load_average": round(os.getloadavg()[0], 2)}
    return {**check_run(run), "exit": exit_status, "events": cluster.events, **seconds}


def main() -> int:
    """Train with a partition and the loss of a host, check the run, and write the result. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=16, help="number of training steps")
    parser.add_argument("--partition", type=float, default=30, help="duration of the partition in seconds")
    parser.add_argument(
        "--lost", type=float, default=20, help="seconds between the loss of the host and the start of new containers"
    )
    parser.add_argument("--minutes", type=float, default=40, help="time limit of each phase of the run")
    parser.add_argument("--project", default="arlarena-cluster", help="name of the Compose project")
    parser.add_argument("--leave", action="store_true", help="do not remove the containers at the end")
    parser.add_argument("--keep", type=Path, help="folder in which logs and the run directory are kept")
    parser.add_argument("--out", type=Path, help="file for the result")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="arlarena-cluster-") as temporary:
        folder = (arguments.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            result = train(arguments, folder)
        except ComposeError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    if result["exit"] != 0:
        result["problems"].append(f"exit status of run: {result['exit']}")
    return int(finish({"passed": not result["problems"], **result}, arguments.out))


if __name__ == "__main__":
    sys.exit(main())
