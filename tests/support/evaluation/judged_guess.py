"""The environment `guess` with an option for a faulty judge: an odd number that is found counts as a failure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from arlarena.environments.guess.environment import Guess, GuessEnvironment
from arlarena.proto.config import Table, parse_table
from arlarena.proto.trajectory import Task

NAME = "support.evaluation.judged_guess"


class JudgeOptions(Table):
    """The options of the environment.

    Attributes:
        judge: "right" or "faulty".
        leak: the first training task has the number of the first test task.
        numbers: file with the numbers of the test split, in place of an environment's official data.
    """

    judge: Literal["right", "faulty"] = "right"
    leak: bool = False
    prefix: str = "The"
    numbers: Path | None = None


class FaultyGuess(Guess):
    """A game with a judge that is wrong for odd numbers. The game ends when the number is found."""

    found = False

    def play(self, action: str | None) -> float:
        super().play(action)
        self.found = bool(self.score)
        self.score = float(self.found and self.secret % 2 == 0)
        return 10.0 if self.score else -0.1

    @property
    def over(self) -> bool:
        return self.found

    def plan(self) -> list[str]:
        game = Guess(self.secret)
        game.low, game.high = self.low, self.high
        return game.plan()


class JudgedGuess(GuessEnvironment):
    """The environment `guess` with the options `JudgeOptions`."""

    name, paths = NAME, ("numbers",)

    def __init__(self, options: JudgeOptions) -> None:
        self.chosen, self.options = options, options.model_dump(mode="json")

    def game(self, task: Task) -> Guess:
        game = super().game(task)
        if self.chosen.numbers is not None and task.split == "test":
            game = Guess(int(self.chosen.numbers.read_text().split()[task.index]))
        if self.chosen.leak and (task.split, task.index) == ("train", 0):
            game = super().game(Task(task.environment, "test", 0))
        return FaultyGuess(game.secret) if self.chosen.judge == "faulty" else game


def load(where: str, options: Mapping[str, Any]) -> JudgedGuess:
    """Return the environment."""
    return JudgedGuess(parse_table(where, options, JudgeOptions))
