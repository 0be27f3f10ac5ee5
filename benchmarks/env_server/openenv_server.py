"""Serves our Sokoban environment with OpenEnv's server. `benchmarks/env_server/speed.py` compares it with our server.

    .venv-openenv/bin/python -m benchmarks.env_server.openenv_server PORT

PYTHONPATH must contain the folders proto, environments/sdk and environments/sokoban.

Both servers have the same rules, rooms and observations.
"""

import sys
from typing import Any

import uvicorn
from openenv.core.env_server.http_server import create_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State

from arlarena.environment.registry import load
from arlarena.proto.env_api import ResetSpec

SESSIONS = 512
SOKOBAN = load(
    "benchmark", "arlarena.environments.sokoban.environment", {}
)  # by module name, because the package is not installed here


class Move(Action):
    text: str


class Seen(Observation):
    text: str
    prompt: str
    step: int
    remaining_steps: int
    admissible_actions: list[str] | None
    terminated: bool
    truncated: bool
    action_valid: bool
    format_valid: bool


class Sokoban(Environment[Move, Seen, State]):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._episode: Any = None

    def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> Seen:
        self._episode = SOKOBAN.start(SOKOBAN.task(ResetSpec(seed=seed or 0)))
        return self._seen(self._episode.observe())

    def step(self, action: Move, timeout_s: float | None = None, **_: Any) -> Seen:
        return self._seen(self._episode.step(action.text))

    @property
    def state(self) -> State:
        return State(step_count=self._episode.steps if self._episode else 0)

    def _seen(self, result: Any) -> Seen:
        seen = result.observation
        names = [name for name in Seen.model_fields if hasattr(seen, name)]
        fields = {name: getattr(seen, name) for name in names}
        metadata = {name: getattr(result.metadata, name) for name in result.metadata.__struct_fields__}
        return Seen(**fields, done=result.done, reward=result.reward, metadata=metadata)


if __name__ == "__main__":
    app = create_app(Sokoban, Move, Seen, env_name="sokoban", max_concurrent_envs=SESSIONS)
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
