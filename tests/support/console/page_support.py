"""Writes a recorded run without training, and serves the run page in a thread."""

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import uvicorn

from arlarena.console.page.play.options import PlayOptions
from arlarena.console.page.runs import Catalog
from arlarena.console.page.server.app import build_app
from arlarena.console.page.server.security import AccessRules
from arlarena.proto.records.episode_lines import EpisodeLine, TurnLine
from arlarena.proto.records.group_records import (
    GroupRecord,
    MemberRecord,
    StepRecord,
    TurnFigures,
    encode_frame,
    record_path,
    write_records,
)
from arlarena.proto.trajectory import (
    Group,
    PolicyVersion,
    Sampling,
    Task,
    Trajectory,
    Turn,
    VersionSpan,
    pack_floats,
    pack_ids,
    write_groups,
)

VERSION = PolicyVersion("life", 3, "d3")
CONFIG = '[run]\nname = "small"\nseed = 7\n[environment]\nname = "guess"\n[trainer]\nrecipe = "sampo"\nsteps = 9\n'
REPLY = "<think>low</think><action>{}</action>"


def turn(member: int, number: int, word: str, **more: Any) -> Turn:
    given = {
        "new_prompt_ids": pack_ids([3, 10 + number, 4]),
        "response_ids": pack_ids([5, 6, 7]),
        "logprobs": pack_floats([-0.5, -0.25, -1.0]),
        "loss_mask": b"\1\1\0",
        "spans": (VersionSpan(0, 3, VERSION),),
        "reward": -0.1 - number,
        "state_key": f"state-{number}",
        "observation_key": f"seen-{number}",
        "action_valid": word != "oops",
        "format_valid": True,
        "finish_reason": "stop",
        "observation": f"guess number {number}",
        "response": REPLY.format(word),
        "action": word,
        "admissible_actions": ("up", "down"),
    }
    return Turn(**(given | more))


def group(name: str, wins: list[bool], words: tuple[str, ...] = ("up", "down"), kind: str = "") -> Group:
    played = tuple(
        Trajectory(f"{name}-{member}", 0, tuple(turn(member, number, word) for number, word in enumerate(words)), won,
                   not won, float(won), won, kind=kind)
        for member, won in enumerate(wins)
    )  # fmt: skip
    return Group(name, Task("guess", "train", 5), len(wins), played, Sampling(), VERSION, VERSION)


def figures(scale: float) -> TurnFigures:
    return TurnFigures(
        log_probs=pack_floats([-0.4 * scale, -0.3]),
        entropies=pack_floats([0.5, 0.25]),
        ratios=pack_floats([1.1, 0.9 * scale]),
        clip=b"\0\2",
    )


def record(group: Group, step: int, status: str = "trained") -> GroupRecord:
    """Return the record of a group. The last member is stale. The other members have figures."""
    members = []
    for number, trajectory in enumerate(group.trajectories):
        count = len(trajectory.turns)
        credit = {
            "episode_advantages": tuple([0.5 * number] * count),
            "step_advantages": tuple(0.25 * turn for turn in range(count)),
            "advantages": tuple(0.5 * number + 0.25 * turn for turn in range(count)),
            "anchor_sizes": tuple([len(group.trajectories)] * count),
        }
        if number == len(group.trajectories) - 1:
            members.append(MemberRecord("stale", "age 5 is above staleness = 1", 5, **credit))
        else:
            turns = tuple(figures(1.0 + number) for _ in range(count))
            members.append(MemberRecord("trained", "", 1, turns=turns, **credit))
    return GroupRecord(group, status, "", tuple(members), step, 0)


def write_step(run: Path, step: int, groups: list[GroupRecord]) -> None:
    (run / "records").mkdir(exist_ok=True)
    head = StepRecord(
        step, str(VERSION), "sampo", "trajectory", 0.2, 0.3, None, "bypass", True, {"trained": len(groups)}
    )
    write_records(record_path(run, step), [encode_frame(head), *map(encode_frame, groups)])


def write_metrics(run: Path, steps: range, **more: float) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        for step in steps:
            file.write(json.dumps({"step": step, "success_rate": step / 100, "run_seconds": 2.0 * step} | more) + "\n")


def episode_line(number: int, *, success: bool, words: tuple[str, ...] = ("up", "up", "down")) -> EpisodeLine:
    turns = tuple(
        TurnLine(turn=place, observation=f"guess number {place}", response=REPLY.format(word), action=word, reward=-1.0,
                 state_key=f"state-{place}", response_tokens=3)
        for place, word in enumerate(words)
    )  # fmt: skip
    task = f"guess/test/{number}"
    return EpisodeLine(f"test-{number}-0", task, turns, success=success, score=float(success), final_observation="end")


def make_run(folder: Path) -> Path:
    """Write a finished run: metrics of 20 steps, groups of steps 4 (plain) and 8 (with figures), two evaluations."""
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(CONFIG)
    (folder / "run.json").write_bytes(
        msgspec.json.encode({"id": "small-1", "name": "small", "schema": 3, "finished": True})
    )
    write_metrics(folder, range(1, 21))
    (folder / "groups").mkdir()
    write_groups(folder / "groups" / "step-000004.msgpack", [group("old", [True, False])])
    both = [group("one", [True, False, True], kind="easy"), group("two", [False, False], ("left", "oops"), "hard")]
    write_groups(folder / "groups" / "step-000008.msgpack", both)
    write_step(folder, 8, [record(both[0], 8), record(both[1], 8, "filtered")])
    (folder / "episodes").mkdir()
    (folder / "eval_sets").mkdir()
    for label, wins in (("before", 1), ("after", 3)):
        lines = [msgspec.json.encode(episode_line(number, success=number < wins)) for number in range(4)]
        (folder / "episodes" / f"{label}.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
        (folder / "eval_sets" / f"{label}.json").write_text(json.dumps({"success": wins / 4, "ci95": [0.0, 1.0]}))
    return folder


class Page:
    """A running server. `get` and `send` return the status and the decoded JSON."""

    def __init__(self, port: int, catalog: Catalog) -> None:
        self.port, self.catalog = port, catalog

    def request(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            reply = connection.getresponse()
            return reply.status, reply.read(), {name.lower(): value for name, value in reply.getheaders()}

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        status, body, _ = self.request("GET", path, **headers)
        return status, json.loads(body)

    def send(self, method: str, path: str, value: Any = None, **headers: str) -> tuple[int, Any]:
        body = json.dumps(value).encode()
        status, reply, _ = self.request(method, path, body, **({"Content_Type": "application/json"} | headers))
        return status, json.loads(reply)

    def ok(self, path: str) -> Any:
        status, value = self.get(path)
        assert status == 200, (path, value)
        return value


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def page_server(
    runs: list[Path], folder: Path, *, token: str | None = None, host: str = "127.0.0.1", play: bool = True
) -> Iterator[Page]:
    """Serve `runs`. Indices and recorded games are in `folder`. All indices are complete at the start of the block."""
    catalog = Catalog(runs, folder / "cache", interval_s=0.05)
    for run in catalog.runs():
        run.index.refresh()
    catalog.add_folder(folder / "played")
    options = PlayOptions(enabled=play, folder=folder / "played")
    app = build_app(catalog, AccessRules(host, token), options)
    bound = socket.create_server(("127.0.0.1", 0))
    server = _Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))

    thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
    thread.start()
    try:
        yield Page(bound.getsockname()[1], catalog)
    finally:
        server.should_exit = True
        thread.join(20)
        bound.close()
