"""Tic-tac-toe against a random opponent: an environment outside the repository, which can be lost and drawn."""

import random

from arlarena.environment.prompts import PromptTemplate
from arlarena.environment.replies import reply
from arlarena.environment.text_game import TextEnvironment, TextGame
from arlarena.proto.config import Table, parse_table
from arlarena.proto.env_api import Split

LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
SQUARES = tuple(str(square) for square in range(1, 10))
TEST = 100  # tasks of the test split: the opponent's seeds from 0


class TicTacToe(TextGame):
    """The player is X and begins. The opponent's moves are a function of the seed and the board."""

    def __init__(self, seed: int) -> None:
        self.seed, self.board, self.score, self.content_key = seed, " " * 9, 0.0, str(seed)

    def text(self) -> str:
        return "\n".join(self.board[start : start + 3].replace(" ", ".") for start in (0, 3, 6))

    def state(self) -> str:
        return f"{self.seed} {self.board}"

    def actions(self) -> list[str]:
        return [square for square in SQUARES if self.board[int(square) - 1] == " "]

    @property
    def over(self) -> bool:
        return self.won("X") or self.won("O") or " " not in self.board

    def won(self, player: str) -> bool:
        return any(all(self.board[square] == player for square in line) for line in LINES)

    def put(self, square: str, player: str) -> None:
        place = int(square) - 1
        self.board = self.board[:place] + player + self.board[place + 1 :]

    def play(self, action: str | None) -> float:
        if action is None:
            return -0.1
        self.put(action, "X")
        if not self.over:
            self.put(random.Random(f"{self.seed} {self.board}").choice(self.actions()), "O")
        self.score = float(self.won("X"))
        return 10.0 * self.score

    def plan(self) -> list[str]:
        moves = self.winning_moves()
        return [reply("a way to win", move) for move in moves or []]

    def winning_moves(self) -> list[str] | None:
        if self.over:
            return [] if self.won("X") else None
        for move in self.actions():
            game = self.copy()
            game.play(move)
            if (rest := game.winning_moves()) is not None:
                return [move, *rest]
        return None


class TicTacToeEnvironment(TextEnvironment):
    name, version, description, horizon = "tic_tac_toe", "1", "Tic-tac-toe against a random opponent.", 9
    template = PromptTemplate("full", "1", "{observation}\nYou are X. Free squares: {actions}")
    splits = (Split("train", "train", None, False), Split("test", "test", TEST, True))
    rewards = {"win": 10.0, "unreadable": -0.1}  # noqa: RUF012
    actions = SQUARES

    def game(self, task):
        return TicTacToe(task.index if task.split == "test" else task.index + TEST)


def load(where, options):
    parse_table(where, options, Table)
    return TicTacToeEnvironment()
