"""Small environments on the official OpenEnv server, for tests of evaluations. Imports no module of this repository.

    .venv-openenv/bin/python tests/support/openenv/openenv_server.py

Prints its port: `--port`, or a free port. The environments are /number, /grid, /tools, /faulty and /single.
"""

import argparse
import json
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastmcp import FastMCP
from openenv.core.env_server.http_server import create_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.mcp_environment import MCPEnvironment
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation
from openenv.core.env_server.types import Action, EnvironmentMetadata, Observation, State
from pydantic import field_validator


class Guess(Action):
    answer: str

    @field_validator("answer")
    @classmethod
    def short(cls, answer: str) -> str:
        if answer == "unreportable":  # the server cannot encode this error, so it ends the session
            raise ValueError("cannot be reported")
        return answer


class Hint(Observation):
    text: str
    low: int
    high: int


class Number(Environment[Guess, Hint, State]):
    """Guess a number below 8 in three guesses. The seed or the task determines the number."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self.number = self.guesses = 0

    def get_metadata(self) -> EnvironmentMetadata:
        return EnvironmentMetadata(name="number", description="Guess a number.", version="3.1")

    def list_splits(self) -> list[str]:
        return ["train", "validation"]

    def num_tasks(self, split: str) -> int:
        return {"train": 3, "validation": 4}[split]

    def get_task(self, split: str, index: int) -> dict[str, Any]:
        return {"number": self._number(split, index)}

    def _number(self, split: str, index: int) -> int:
        return 2 * index + (split == "train")

    def reset(
        self,
        seed: int | None = None,
        episode_id: str | None = None,
        split: str | None = None,
        index: int | None = None,
        plus: int = 0,
    ) -> Hint:
        chosen = (seed or 0) if split is None or index is None else self._number(split, index)
        self.number, self.guesses = (chosen + plus) % 8, 0
        return Hint(text="Guess a number from 0 to 7.", low=0, high=7, metadata={"episode": episode_id})

    def step(self, action: Guess, timeout_s: float | None = None) -> Hint:
        guess = int(action.answer)
        self.guesses += 1
        hit = guess == self.number
        text = "Right." if hit else "Too low." if guess < self.number else "Too high."
        return Hint(text=text, low=0, high=7, done=hit or self.guesses == 3, reward=1.0 if hit else 0.0)

    @property
    def state(self) -> State:
        return State(step_count=self.guesses)


class Cell(Action):
    row: int
    column: int


class Board(Observation):
    marks: list[list[int]]


class Grid(Environment[Cell, Board, State]):
    """Mark the cell (1, 2). The episode ends only when this cell is marked."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def reset(self, seed: int | None = None, episode_id: str | None = None) -> Board:
        return Board(marks=[])

    def step(self, action: Cell, timeout_s: float | None = None) -> Board:
        done = (action.row, action.column) == (1, 2)
        return Board(marks=[[action.row, action.column]], done=done, reward=2.5 if done else None)

    @property
    def state(self) -> State:
        raise RuntimeError("there is no state")


class Tools(MCPEnvironment):
    """Call the tool `submit` with the number of the task. The metadata of the first observation contains the number."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        server: FastMCP = FastMCP("tools")
        self.number, self.submitted = 0, -1

        @server.tool
        def submit(number: int) -> str:
            """Submit a number."""
            self.submitted = number
            return f"{number} is submitted"

        super().__init__(server)

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        self.number, self.submitted = seed or 0, -1
        return Observation(metadata={"prompt": f"Submit the number {self.number}."})

    async def step_async(self, action: Action, timeout_s: float | None = None, **kwargs: Any) -> Observation:
        found = await super().step_async(action, timeout_s, **kwargs)
        done = self.submitted == self.number
        return found.model_copy(update={"done": done, "reward": 1.0 if done else 0.0})

    def _step_impl(self, action: Action, timeout_s: float | None = None, **kwargs: Any) -> Observation:
        raise TypeError("only tools can be called")

    @property
    def state(self) -> State:
        return State()


class Faulty(Number):
    """Each episode has one step, and its reward is NaN."""

    def step(self, action: Guess, timeout_s: float | None = None) -> Hint:
        return Hint(text="over", low=0, high=7, done=True, reward=float("nan"))


def main() -> None:
    """Serve until a signal ends the process."""
    app = FastAPI()
    app.mount("/number", create_app(Number, Guess, Hint, env_name="number", max_concurrent_envs=8))
    app.mount("/grid", create_app(Grid, Cell, Board, env_name="grid", max_concurrent_envs=8))
    app.mount("/tools", create_app(Tools, CallToolAction, CallToolObservation, env_name="tools", max_concurrent_envs=8))
    app.mount("/faulty", create_app(Faulty, Guess, Hint, env_name="faulty", max_concurrent_envs=8))
    app.mount("/single", create_app(Number, Guess, Hint, env_name="single"))  # OpenEnv's default: one session
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    listening = socket.create_server(("127.0.0.1", parser.parse_args().port))
    print(json.dumps({"port": listening.getsockname()[1]}), flush=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws_ping_interval=0.5, ws_ping_timeout=0.5))
    server.run(sockets=[listening])


if __name__ == "__main__":
    main()
