"""Episodes of people. The format is that of a model's episodes in the evaluation of a run.

Each line of the file is one finished episode as JSON. All keys of an evaluation's episodes are present, with the same
meaning. So the same tools read both files. `response_tokens` and `logprob` are 0, because a person samples no tokens.
The additional keys are `player`, `environment`, `purchase`, and the times `started_at`, `duration_s` and `seconds`.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any, Literal

import msgspec

SCHEMA = 2  # of the episodes file; equals arlarena.proto.records.episode_lines.SCHEMA (a test compares them)
FILE = "episodes.jsonl"
_BLOCK = 1 << 16  # bytes per read in the search for the end of the last complete line


class RecordError(ValueError):
    """A file of episodes is damaged. The message names the file and the line."""


class HumanTurn(msgspec.Struct, frozen=True):
    """One action.

    `observation`, `state_key`: the values before the action. `response`: the reply as a model writes it. `seconds`:
    time since the previous action, or since the start of the episode.
    """

    turn: int
    observation: str
    response: str
    action: str
    reward: float
    action_valid: bool
    format_valid: bool
    state_key: str
    seconds: float
    no_action: bool = False
    finish_reason: Literal["stop"] = "stop"
    response_tokens: int = 0
    logprob: float = 0.0
    admissible_actions: tuple[str, ...] = ()
    version: str = ""


class RecordedPurchase(msgspec.Struct, frozen=True):
    """A purchase. `options`: the chosen values by axis. `price`: in dollars. `parts`: the parts of the score by their
    names in WebShop's code, such as `r_att`.
    """

    asin: str
    options: dict[str, str]
    price: float
    parts: dict[str, float | bool]


class PlayedEnvironment(msgspec.Struct, frozen=True):
    """The environment of an episode. `options` has no paths, because paths differ between machines."""

    name: str
    version: str
    options: dict[str, Any]


class HumanEpisode(msgspec.Struct, frozen=True, kw_only=True):
    """A finished episode.

    Attributes:
        id: the split, the task's index, the session's random name and the number of the episode in the session (from
            1), joined by "-".
        task: the task's id.
        split, index, seed, kind: the task's split, index, seed and kind.
        success, score, total_reward: the outcome; `total_reward` is written as `return`.
        terminated: whether the person bought a product.
        truncated: whether the maximum number of steps was reached without a purchase.
        started_at: Unix time in seconds.
        duration_s: seconds from the start to the last action.
        purchase: None if nothing was bought.
    """

    schema: int = SCHEMA
    id: str
    task: str
    split: str = ""
    index: int | None = None
    seed: int | None = None
    kind: str = ""
    success: bool
    score: float
    total_reward: float = msgspec.field(name="return")
    outcome: Literal["ok"] = "ok"
    fault: str = ""
    terminated: bool
    truncated: bool
    optimal_moves: int | None = None
    metrics: dict[str, float]
    turns: tuple[HumanTurn, ...]
    final_observation: str
    player: Literal["human"] = "human"
    environment: PlayedEnvironment
    started_at: float
    duration_s: float
    purchase: RecordedPurchase | None = None


def append_episode(path: Path, episode: HumanEpisode) -> None:
    """Append one line to the file, and sync the file. Processes that append to the same file wait for each other.

    An incomplete last line, which a killed process left, is removed first. So every line stays complete.

    Raises:
        OSError: the file cannot be written. Its earlier lines remain.
    """
    line = msgspec.json.encode(episode) + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        end = _end_of_lines(handle)
        os.ftruncate(handle, end)
        try:
            _write(handle, line, end)
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, end)
            raise
    finally:
        os.close(handle)


def load_episodes(path: Path) -> list[HumanEpisode]:
    """Return the episodes of a file. An incomplete last line, which a killed process left, is ignored.

    Raises:
        OSError: the file cannot be read.
        RecordError: a complete line is not an episode of a person in this format.
    """
    *lines, _ = path.read_bytes().split(b"\n")
    episodes = []
    for number, line in enumerate(lines, 1):
        try:
            episode = _decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise RecordError(f"{path}, line {number}: not an episode of a person: {error}") from error
        if episode.schema != SCHEMA:
            raise RecordError(f"{path}, line {number}: schema {episode.schema}, but this code reads {SCHEMA}")
        episodes.append(episode)
    return episodes


def _end_of_lines(handle: int) -> int:
    """Return the position after the last line end of a file. Return 0 if the file has no line end."""
    end = os.fstat(handle).st_size
    while end > 0:
        start = max(0, end - _BLOCK)
        found = os.pread(handle, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _write(handle: int, data: bytes, position: int) -> None:
    while data:
        written = os.pwrite(handle, data, position)
        data, position = data[written:], position + written


_decoder = msgspec.json.Decoder(HumanEpisode)
