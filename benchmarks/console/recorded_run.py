"""Writes a finished run with many random episodes, in the file formats of the trainer and of the evaluation."""

from __future__ import annotations

import json
import random
from pathlib import Path

import msgspec
import numpy as np

from arlarena.proto.records import group_records as records
from arlarena.proto.records.episode_lines import EpisodeLine, TurnLine
from arlarena.proto.trajectory import Group, PolicyVersion, Sampling, Task, Trajectory, pack_floats
from benchmarks.support.random_turns import random_turn

GROUP_SIZE, TURNS, PROMPT, RESPONSE, STEPS = 8, 8, 60, 12, 400
WORDS = ("up", "down", "left", "right")
VERSION = PolicyVersion("bench", 1, "d1")
EVALUATED_SHARE = 0.2


def _board(draw: random.Random) -> str:
    return "\n".join("".join(draw.choices("#_", k=7)) for _ in range(7))


def _figures(numbers: np.random.Generator) -> records.TurnFigures:
    values = [pack_floats(numbers.random(RESPONSE)) for _ in range(4)]
    return records.TurnFigures(values[0], values[1], values[2], bytes(RESPONSE), b"", values[3])


def make_group(draw: random.Random, numbers: np.random.Generator, step: int, index: int) -> records.GroupRecord:
    """Returns the record of a random group of `GROUP_SIZE` episodes. The record contains figures of each token."""
    episodes, members = [], []
    for member in range(GROUP_SIZE):
        turns, success = [], draw.random() < 0.5
        for number in range(draw.randint(2, 2 * TURNS - 2)):
            word, state = draw.choice(WORDS), f"{index}-{draw.randrange(20)}"
            turns.append(
                random_turn(
                    numbers,
                    VERSION,
                    PROMPT,
                    RESPONSE,
                    reward=-0.1,
                    state_key=state,
                    observation_key=state,
                    action_valid=draw.random() < 0.95,
                    observation=f"{_board(draw)}\nyou {number} box {draw.randrange(9)} goal {draw.randrange(9)}",
                    response=f"<think>push {word}</think><action>{word}</action>",
                    action=word,
                    admissible_actions=WORDS,
                )
            )
        credit = tuple(numbers.normal(size=len(turns)).tolist())
        figures = tuple(_figures(numbers) for _ in turns)
        members.append(records.MemberRecord("trained", "", 1, credit, credit, credit, (1,) * len(turns), figures))
        episodes.append(
            Trajectory(f"g{index}-{member}", 0, tuple(turns), success, not success, float(success), success)
        )
    task = Task("sokoban", "train", index)
    group = Group(f"g{index:06d}", task, GROUP_SIZE, tuple(episodes), Sampling(), VERSION, VERSION)
    return records.GroupRecord(group, "trained", "", tuple(members), step, 0)


def make_run(run: Path, episodes: int) -> None:
    """Write a finished run into the folder `run`, with about `episodes` episodes.

    The run has `STEPS` recorded training steps and two evaluations. `EVALUATED_SHARE` of the episodes are evaluation
    episodes.
    """
    draw, numbers = random.Random(0), np.random.default_rng(0)
    for folder in (run, run / records.FOLDER, run / "episodes"):
        folder.mkdir()
    (run / "run.json").write_text('{"id": "bench", "name": "bench", "schema": 3, "finished": true}')
    (run / "config.toml").write_text('[environment]\nname = "sokoban"\n[trainer]\nrecipe = "sampo"\n')
    evaluated = int(episodes * EVALUATED_SHARE)
    groups = (episodes - evaluated) // GROUP_SIZE
    per_step = -(-groups // STEPS)
    with (run / "metrics.jsonl").open("w") as file:
        for step in range(1, STEPS + 1):
            values = {f"metric_{number}": draw.random() for number in range(70)}
            file.write(json.dumps({"step": step, "success_rate": draw.random()} | values) + "\n")
    head = records.StepRecord(
        0, str(VERSION), "sampo", "trajectory", 0.03, 0.04, None, "bypass", True, {"trained": per_step}
    )
    for step in range(1, STEPS + 1):
        first = (step - 1) * per_step
        frames: list[records.StepRecord | records.GroupRecord] = [msgspec.structs.replace(head, step=step)]
        frames += [make_group(draw, numbers, step, index) for index in range(first, min(groups, first + per_step))]
        records.write_records(records.record_path(run, step), map(records.encode_frame, frames))
    for label in ("before", "after"):
        with (run / "episodes" / f"{label}.jsonl").open("wb") as file:
            for number in range(evaluated // 2):
                file.write(msgspec.json.encode(_line(draw, number)) + b"\n")


def _line(draw: random.Random, number: int) -> EpisodeLine:
    turns = tuple(
        TurnLine(
            turn=place,
            observation=_board(draw),
            response="<think>push up</think><action>up</action>",
            action=draw.choice(WORDS),
            state_key=f"{number}-{place}",
            response_tokens=RESPONSE,
        )
        for place in range(draw.randint(2, 2 * TURNS - 2))
    )
    return EpisodeLine(f"test-{number}-0", f"sokoban/test/{number}", turns, success=draw.random() < 0.5)
