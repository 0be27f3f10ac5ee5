"""The game of `openenv_server.Number` for `scripted_openenv`, and a model that plays it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web
from support.openenv.scripted_openenv import observed

from arlarena.rollout.evaluation.models.protocol import ModelMessage

NUMBERS = 8
GUESSES = 3


class NumberGame:
    """A game: guess a number below 8 in three guesses.

    The number is the seed, or twice the index of a task in a split (modulo 8).

    Attributes:
        observation: additional fields of each observation.
        resets: the data of all resets.
    """

    def __init__(self, **observation: Any) -> None:
        self.observation, self.resets = observation, list[dict[str, Any]]()
        self._games: dict[int, tuple[int, int]] = {}

    async def reset(self, socket: web.WebSocketResponse, frame: dict[str, Any]) -> None:
        data = frame["data"]
        self.resets.append(data)
        number = (2 * data["index"] if "split" in data else data["seed"]) % NUMBERS
        self._games[id(socket)] = number, 0
        await socket.send_str(observed("Guess a number from 0 to 7.", **self.observation))

    async def step(self, socket: web.WebSocketResponse, frame: dict[str, Any]) -> None:
        number, guesses = self._games[id(socket)]
        guess = int(frame["data"]["text"])
        self._games[id(socket)] = number, guesses + 1
        hit = guess == number
        text = "Right." if hit else "Too low." if guess < number else "Too high."
        done = hit or guesses + 1 == GUESSES
        await socket.send_str(observed(text, reward=float(hit), done=done, **self.observation))


def bisect(messages: Sequence[ModelMessage]) -> str:
    """Return the best next guess. This strategy finds the numbers 1 to 7, but not 0."""
    low, high = 0, NUMBERS - 1
    for guess, hint in zip(messages[1::2], messages[2::2], strict=False):
        number = int(guess.text.rpartition(">")[2])
        low, high = (number + 1, high) if "low" in hint.text else (low, number - 1)
    return f"<think>From {low} to {high}.</think>{(low + high + 1) // 2}"
