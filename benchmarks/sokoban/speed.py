"""Compares our generator of Sokoban rooms with gym-sokoban's generator: speed, difficulty, and identity of the rooms.

    python -m benchmarks.sokoban.speed --out benchmarks/results/sokoban_rooms.json

In this file, `original` is gym-sokoban's generator. There are three comparisons for each size:

* Speed: rooms per second of CPU time. The generators take turns and make up to 10 rooms each time, so a busy machine
  slows both generators equally.
* Difficulty: a two-sample Kolmogorov-Smirnov test compares the minimum number of pushes in the rooms of both
  generators. The generators draw different random rooms.
* Identity: both generators get the same drafts and must return equal rooms. A draft is a room with all boxes on their
  targets. A generator pulls the boxes away from the targets (reverse play).

gym-sokoban 0.0.6 is not a dependency. If it is not installed, the benchmark installs its wheel into a temporary folder
with pip, without dependencies. gym-sokoban takes about six seconds for a 10x10 room with 4 boxes, so `--minutes` limits
the time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import ks_2samp

from arlarena.environments.sokoban.room import Room
from arlarena.environments.sokoban.rooms import draw_layout, generate, play_backwards, random_for
from arlarena.environments.sokoban.solver import least_pushes

PACKAGE = "gym-sokoban==0.0.6"
GOALS = {(6, 6, 1): 10, (10, 10, 4): 50}  # (height, width, boxes): required ratio of the speeds
Grid = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result for one size of rooms. Names that begin with `original_` belong to gym-sokoban's generator.

    The rates `…_per_s` are in rooms per second of CPU time. `mean_pushes` is the mean over all rooms of the minimum
    number of pushes that solve a room.
    """

    height: int
    width: int
    boxes: int
    rooms: int
    original_rooms: int
    rooms_per_s: float
    original_rooms_per_s: float
    ratio: float
    wanted_ratio: float
    ks_statistic: float
    ks_p_value: float
    mean_pushes: float
    original_mean_pushes: float
    drafts_compared: int
    drafts_identical: int


def load_original(folder: Path) -> ModuleType:
    """Import gym-sokoban's generator without importing gym. If it is not installed, install it in `folder` first.

    Raises:
        SystemExit: gym-sokoban cannot be installed, or has no generator.
    """
    found = importlib.util.find_spec("gym_sokoban")
    if found is None:
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"error: gym-sokoban is not installed, and pip cannot install {PACKAGE}:\n{done.stderr}")
        package = folder / "gym_sokoban"
    else:
        package = Path((found.submodule_search_locations or [""])[0])
    spec = importlib.util.spec_from_file_location("original_rooms", package / "envs" / "room_utils.py")
    if spec is None or spec.loader is None:
        raise SystemExit(f"error: the package {package} contains no generator of rooms")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def original_room(original: ModuleType, size: tuple[int, int, int]) -> tuple[Grid, Grid]:
    """Generate a room with gym-sokoban's generator. If the generator fails, call it again.

    `original`: the module from `load_original`. `size`: (height, width, boxes). Returns (structure, state), two arrays
    [height, width] for `to_room`. The other arguments of the generator are those of gym-sokoban's environment.
    """
    height, width, boxes = size
    while True:
        try:
            steps = int(1.7 * (height + width))
            structure, state, _ = original.generate_room(dim=(height, width), num_steps=steps, num_boxes=boxes)
        except (RuntimeError, RuntimeWarning):
            continue
        return structure, state


def to_room(structure: Grid, state: Grid) -> Room:
    """Convert gym-sokoban's arrays [height, width] to a `Room`. Values: 0 wall, 2 target, 3 and 4 box, 5 player."""

    def mask(cells: Grid) -> int:
        return sum(1 << int(cell) for cell in np.flatnonzero(cells))

    height, width = structure.shape
    player = int(np.flatnonzero(state == 5)[0])
    return Room(height, width, mask(structure != 0), mask(structure == 2), mask(np.isin(state, (3, 4))), player)


def identical(original: ModuleType, size: tuple[int, int, int], drafts: int) -> int:
    """Give `drafts` drafts to both generators. Return the number of drafts with equal results.

    The results are equal if both generators return the same room, or if both reject the draft.

    Raises:
        SystemExit: no draft of this size was found.
    """
    same = 0
    for number in range(drafts):
        layout = None
        for attempt in range(1000):
            layout = layout or draw_layout(random_for("identity", *size, number, attempt), *size)
        if layout is None:
            raise SystemExit(f"error: 1,000 attempts made no draft of the size {size}")
        structure = np.zeros(size[:2])
        flat = structure.ravel()
        flat[[cell for cell in range(flat.size) if layout.floor >> cell & 1]] = 1
        flat[list(layout.targets)] = 2
        state = np.where(structure == 2, 4, structure)
        state.ravel()[layout.player] = 5
        end_state, score, _ = original.reverse_playing(state, structure)
        our_room = play_backwards(layout)
        same += (to_room(structure, end_state) == our_room) if score > 0 else our_room is None
    return same


class Stopwatch:
    """The rooms that one generator has made, and the CPU time that it took, in seconds."""

    def __init__(self) -> None:
        self.rooms: list[Room] = []
        self.seconds = 0.0

    @property
    def rate(self) -> float:
        """Rooms per second of CPU time."""
        return len(self.rooms) / self.seconds


def sample(original: ModuleType, size: tuple[int, int, int], count: int, minutes: float) -> tuple[Stopwatch, Stopwatch]:
    """Generate `count` rooms with each generator, in alternating blocks. Stop early after `minutes`.

    Returns (result of our generator, result of gym-sokoban's generator).
    """
    ours, theirs = Stopwatch(), Stopwatch()
    ends = time.monotonic() + 60 * minutes
    while len(theirs.rooms) < count and time.monotonic() < ends:
        block = min(10, count - len(theirs.rooms))
        begun = time.process_time()
        grids = [original_room(original, size) for _ in range(block)]
        theirs.seconds += time.process_time() - begun
        theirs.rooms += [to_room(*grid) for grid in grids]
        begun = time.process_time()
        first = len(ours.rooms)
        ours.rooms += [generate(*size, seed) for seed in range(first, first + block)]
        ours.seconds += time.process_time() - begun
    return ours, theirs


def pushes(room: Room) -> int:
    """Return the minimum number of pushes that solve the room.

    Raises:
        SystemExit: the room has no solution, so its generator has a fault.
    """
    plan = least_pushes(room, max_states=5_000_000)
    if plan is None:
        raise SystemExit("error: a generated room has no solution:\n" + "\n".join(room.rows()))
    return plan.pushes


def compare(original: ModuleType, size: tuple[int, int, int], count: int, drafts: int, minutes: float) -> Comparison:
    """Compare speed, difficulty and identity for one size of rooms.

    Args:
        original: gym-sokoban's generator.
        size: (height, width, boxes).
        count: number of rooms of each generator.
        drafts: number of drafts for the comparison of identity.
        minutes: time limit for generating the rooms.
    """
    ours, theirs = sample(original, size, count, minutes)
    our_pushes, original_pushes = [pushes(room) for room in ours.rooms], [pushes(room) for room in theirs.rooms]
    test = ks_2samp(our_pushes, original_pushes)
    return Comparison(
        *size,
        rooms=len(our_pushes),
        original_rooms=len(original_pushes),
        rooms_per_s=ours.rate,
        original_rooms_per_s=theirs.rate,
        ratio=ours.rate / theirs.rate,
        wanted_ratio=GOALS.get(size, 0),
        ks_statistic=float(test.statistic),
        ks_p_value=float(test.pvalue),
        mean_pushes=float(np.mean(our_pushes)),
        original_mean_pushes=float(np.mean(original_pushes)),
        drafts_compared=drafts,
        drafts_identical=identical(original, size, drafts),
    )


def report(result: Comparison) -> None:
    """Print the result for one size of rooms."""
    print(
        f"{result.height}x{result.width}, {result.boxes} boxes: {result.rooms_per_s:.4g} rooms/s, original "
        f"{result.original_rooms_per_s:.4g}, ratio {result.ratio:.1f} (required: {result.wanted_ratio:g})\n"
        f"  minimum number of pushes: mean {result.mean_pushes:.2f} over {result.rooms} rooms, original "
        f"{result.original_mean_pushes:.2f} over {result.original_rooms} rooms, KS statistic "
        f"{result.ks_statistic:.3f}, p = {result.ks_p_value:.3f}\n"
        f"  drafts with equal rooms: {result.drafts_identical} of {result.drafts_compared}",
        flush=True,
    )


def size_of(text: str) -> tuple[int, int, int]:
    """Parse a size: `10x10/4` gives (10, 10, 4)."""
    grid, boxes = text.split("/")
    height, width = grid.split("x")
    return int(height), int(width), int(boxes)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes", type=size_of, nargs="+", default=list(GOALS), help="HEIGHTxWIDTH/BOXES, such as 6x6/1 10x10/4"
    )
    parser.add_argument("--rooms", type=int, default=400, help="number of rooms of each generator, for each size")
    parser.add_argument("--drafts", type=int, default=20, help="number of drafts for the comparison of identity")
    parser.add_argument("--minutes", type=float, default=45.0, help="time limit for generating the rooms of a size")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of gym-sokoban's generator; our generator has the seeds 0, 1, …"
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    sys.setrecursionlimit(10_000)  # the original's recursion is up to 300 calls deep
    random.seed(arguments.seed)
    np.random.seed(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        run = partial(compare, load_original(Path(folder)))
        results = []
        for size in arguments.sizes:
            results.append(run(size, arguments.rooms, arguments.drafts, arguments.minutes))
            report(results[-1])
    machine = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        record = {"original": PACKAGE, "machine": machine, "sizes": [asdict(result) for result in results]}
        arguments.out.write_text(json.dumps(record, indent=2) + "\n")
    met = all(
        r.ratio >= r.wanted_ratio and r.ks_p_value > 0.05 and r.drafts_identical == r.drafts_compared for r in results
    )
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
