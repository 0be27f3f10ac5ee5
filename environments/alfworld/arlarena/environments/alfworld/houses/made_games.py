"""Generated games. The options, the horizon, the split and the index determine a game. A *draft* is a game drawn at
random (see `generator`).
"""

from __future__ import annotations

from functools import lru_cache

from arlarena.environment.indexed_tasks import index_of
from arlarena.environment.protocols import TaskError
from arlarena.environments.alfworld.content import GameFile, LoadedGame, loaded
from arlarena.environments.alfworld.engine.domain import DOMAIN, GRAMMAR, check_domain
from arlarena.environments.alfworld.engine.game import Game, rules_of
from arlarena.environments.alfworld.expert import Expert, NoPlan
from arlarena.environments.alfworld.files.game_files import MADE_PROBLEM
from arlarena.environments.alfworld.houses.generator import SPLITS, Draft, HouseOptions, belongs_to, draw, random_for
from arlarena.proto.env_api import DataSource

MAX_DRAFTS = 10_000  # about every second draft is valid; the limit is reached only if the options allow no game
GOAL = "Your task is to: UNKNOWN GOAL."  # a sentence of GRAMMAR; each game has the sentence of its task instead


class GeneratedGames:
    """Generated games. `horizon`: number of steps within which the expert must solve each game. `panel_size`: number of
    games in each evaluation split.
    """

    def __init__(self, options: HouseOptions, horizon: int, panel_size: int) -> None:
        self._options, self._horizon, self._panel_size = options, horizon, panel_size

    def sizes(self) -> dict[str, int | None]:
        """Return the number of games in each split; None for unlimited splits."""
        return {split: None if split == "train" else self._panel_size for split in SPLITS}

    def source(self) -> DataSource:
        """Describe the games for `/v1/info`: the games are not official."""
        return DataSource(
            "games made by this server, not ALFWorld's official games (set ALFWORLD_DATA)", official=False
        )

    def game(self, split: str, index: int) -> LoadedGame:
        """Return one game.

        Raises:
            TaskError: no game that fulfils the options was found.
        """
        return _loaded(split, index, self._options, self._horizon)[1]

    def file(self, split: str, index: int) -> GameFile:
        """Return the three texts of the game's file.

        Raises:
            TaskError: no game that fulfils the options was found.
        """
        return file_of(draft_of(split, index, self._options, self._horizon))

    def name(self, split: str, index: int) -> str:
        """Return "", because generated games have no names."""
        return ""

    def index(self, split: str, name: str) -> int | None:
        """Return the index: for generated games, the name is the index as text."""
        return index_of(name)


def draft_of(split: str, index: int, options: HouseOptions, horizon: int) -> Draft:
    """Return a game as the generator drew it. The game's file is written from this draft.

    Raises:
        TaskError: no game that fulfils the options was found.
    """
    return _loaded(split, index, options, horizon)[0]


@lru_cache(maxsize=1024)
def _loaded(split: str, index: int, options: HouseOptions, horizon: int) -> tuple[Draft, LoadedGame]:
    random = random_for(options.key(), horizon, split, index)
    for _ in range(MAX_DRAFTS):
        draft = draw(random, split, options)
        if draft is None:
            continue
        made = loaded(
            rules_of(draft.problem(), GRAMMAR.replace(GOAL, draft.goal.sentence(draft.choice)), check_domain(DOMAIN))
        )
        if belongs_to(made.content_key, split) and _solvable(made, horizon):
            return draft, made
    raise TaskError(
        f"no game for {split}/{index} in {MAX_DRAFTS} attempts, because the options allow too few games: change "
        "things, receptacles, instances, task_types or max_steps"
    )


def _solvable(made: LoadedGame, horizon: int) -> bool:
    """Return True if the task is not solved at the start, and if the expert solves it within the horizon."""
    assert made.goal is not None
    game = Game(made.rules)
    if game.won:
        return False
    try:
        moves = sum(1 for _ in Expert(made.rules.house, made.goal).moves(game))
    except NoPlan:
        return False
    return moves <= horizon


def file_of(draft: Draft) -> GameFile:
    """Return the three texts of a game's file."""
    return GameFile(DOMAIN, GRAMMAR.replace(GOAL, draft.goal.sentence(draft.choice)), draft.text(MADE_PROBLEM))
