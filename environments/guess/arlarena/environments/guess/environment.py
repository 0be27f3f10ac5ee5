"""Guess a number from 1 to 100. This is a complete environment in one short file. To write your own environment, copy
this file and read docs/how-to/write-an-environment.md.
"""

from collections.abc import Mapping
from random import Random
from typing import Any

from arlarena.environment.prompts import PromptTemplate
from arlarena.environment.replies import reply
from arlarena.environment.text_game import TextEnvironment, TextGame
from arlarena.proto.config import Table, parse_table
from arlarena.proto.env_api import Split
from arlarena.proto.trajectory import Task

TEMPLATE = "{history}{observation} {remaining} guesses left.\nReply: <think>why</think><action>number</action>"
TEST = range(5, 101, 5)  # numbers to guess in the test split; they do not occur in training


class Guess(TextGame):
    def __init__(self, secret: int) -> None:
        self.secret, self.low, self.high, self.score = secret, 1, 100, 0.0
        self.content_key = str(secret)

    def text(self) -> str:
        return f"The number is from {self.low} to {self.high}."

    def state(self) -> str:
        return f"{self.secret} {self.low} {self.high} {self.score}"

    def play(self, action: str | None) -> float:
        guess = int(action) if action and action in map(str, range(self.low, self.high + 1)) else None
        if guess is not None:
            self.low, self.high = (guess + 1, self.high) if guess < self.secret else (self.low, guess - 1)
        self.score = float(guess == self.secret)
        return 10.0 if self.score else -0.1

    def plan(self) -> list[str]:
        game, replies = self.copy(), []
        while not game.over:
            middle = str((game.low + game.high) // 2)
            replies.append(reply("the middle", middle))
            game.play(middle)
        return replies


class GuessEnvironment(TextEnvironment):
    name, version, description, horizon = "guess", "1", "Guess a number; each answer narrows the range.", 8
    template = PromptTemplate("full", "1", TEMPLATE)
    splits = (Split("train", "train", None, False), Split("test", "test", len(TEST), True))
    rewards: Mapping[str, float] = {"guess": -0.1, "found": 10.0}
    vocabulary = tuple(map(str, range(1, 101)))

    def game(self, task: Task) -> Guess:
        others = [number for number in range(1, 101) if number not in TEST]
        return Guess(TEST[task.index] if task.split == "test" else Random(task.id).choice(others))


def load(where: str, options: Mapping[str, Any]) -> GuessEnvironment:
    parse_table(where, options, Table)  # this environment has no options, so any option raises ConfigError
    return GuessEnvironment()
