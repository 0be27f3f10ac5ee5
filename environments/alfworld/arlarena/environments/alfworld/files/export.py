"""Writes generated games as files in the layout of official games, for alfworld's tools and for this environment.

    python -m arlarena.environments.alfworld.files.export --split train --count 10 --out DIR [--config run.toml]

The options of the games are in `run.toml`, in the table [environment.options]. A game is written to
`DIR/<split>/<type>-<thing>-None-<receptacle or lamp>-<room>/trial_<index>/`, as `game.tw-pddl` and `traj_data.json`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from arlarena.environment.protocols import TaskError
from arlarena.environments.alfworld.content import LoadedGame
from arlarena.environments.alfworld.engine.game import Game
from arlarena.environments.alfworld.expert import Expert
from arlarena.environments.alfworld.files.game_files import GAME, TRAJECTORY
from arlarena.environments.alfworld.houses.generator import SPLITS, Draft
from arlarena.environments.alfworld.houses.made_games import GeneratedGames, draft_of, file_of
from arlarena.environments.alfworld.options import AlfworldOptions, read_options
from arlarena.proto.atomic_files import write_json
from arlarena.proto.config import ConfigError, exit_on_config_error, read_table


def export(out: Path, split: str, index: int, options: AlfworldOptions) -> Path:
    """Write the files of one game and return the folder. The same arguments always give the same bytes.

    Raises:
        TaskError: no game that fulfils the options was found.
        OSError: a file cannot be written.
    """
    houses, horizon = options.houses(), options.max_steps
    draft = draft_of(split, index, houses, horizon)
    made = GeneratedGames(houses, horizon, options.panel_size).game(split, index)
    folder = out / split / _name(draft) / f"trial_{index}"
    folder.mkdir(parents=True, exist_ok=True)
    game = {**msgspec.to_builtins(file_of(draft)), "walkthrough": _walkthrough(made), "solvable": True}
    write_json(folder / TRAJECTORY, _trajectory(draft, index))
    write_json(folder / GAME, game)  # written last, so a folder that has this file is complete
    return folder


def _name(draft: Draft) -> str:
    goal = draft.goal
    return "-".join([goal.type, goal.thing, "None", goal.receptacle or goal.lamp, str(draft.room.number)])


def _trajectory(draft: Draft, index: int) -> dict[str, object]:
    """Return the content of `traj_data.json`: the fields of ALFRED's task description that alfworld's tools read."""
    goal, number = draft.goal, draft.room.number
    return {
        "task_id": f"trial_{index}",
        "task_type": goal.type,
        "pddl_params": {
            "object_target": goal.thing,
            "parent_target": goal.receptacle,
            "toggle_target": goal.lamp,
            "mrecep_target": "",
            "object_sliced": False,
        },
        "scene": {"floor_plan": f"FloorPlan{number}", "scene_num": number},
    }


def _walkthrough(game: LoadedGame) -> list[str]:
    """Return the commands with which the expert solves the game."""
    assert game.goal is not None
    return [command for _, command in Expert(game.rules.house, game.goal).moves(Game(game.rules))]


def main() -> int:
    """Run the command that the module's docstring shows.

    Raises:
        ConfigError: a file or an option is invalid.
    """
    parser = argparse.ArgumentParser(prog="python -m arlarena.environments.alfworld.files.export", description=__doc__)
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--first", type=int, default=0, help="index of the first game")
    parser.add_argument("--count", type=int, default=10, help="number of games")
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument(
        "--config", type=Path, help="configuration file of a run, with [environment.options] for the games"
    )
    args = parser.parse_args()
    if args.first < 0 or args.count < 1:
        raise ConfigError(
            f"--first {args.first} --count {args.count}: --first must be at least 0, and --count at least 1"
        )
    options = _options(args.config)
    try:
        for index in range(args.first, args.first + args.count):
            print(export(args.out, args.split, index, options), flush=True)
    except TaskError as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
        raise ConfigError(f"--out {args.out}: {error}") from error
    return 0


def _options(config: Path | None) -> AlfworldOptions:
    if config is None:
        return read_options("defaults:", {})
    table = read_table(config, "environment")
    if (name := table.get("name")) != "alfworld":
        raise ConfigError(
            f"{config}: [environment] name = {name!r}: must be alfworld, because only games of alfworld can be exported"
        )
    return read_options(f"{config}: [environment.options]", table.get("options", {}))


if __name__ == "__main__":
    raise SystemExit(exit_on_config_error(main))
