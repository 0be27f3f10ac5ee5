"""Environments for TRL's `GRPOTrainer(environment_factory=…)`. The model plays an episode with the tool `act`.

    trainer = GRPOTrainer(…, environment_factory=environment_factory("http://127.0.0.1:8000"), train_dataset=…)

Each row of the data set is one task. The columns `split`, `index`, `seed` and `task_id` select the task. Other columns
are ignored. This module does not import TRL. TRL 1 calls the methods `reset` and `get_reward` of an environment. Every
other public method becomes a tool for the model, and the method's docstring becomes the tool's description.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
from typing import Any

from arlarena.client.arguments import valid_text
from arlarena.client.environments import StepOutcome
from arlarena.client.errors import SessionLost
from arlarena.client.sync import SyncEnvironments, SyncSession

TASK_COLUMNS = ("split", "index", "seed", "task_id")


class TrlEnvironment:
    """An environment for TRL that plays one episode at a time in a session on the environment server.

    The first reset opens the session. If the server has ended the session, the next reset opens another session.
    """

    def __init__(self, environments: SyncEnvironments, split: str | None = None) -> None:
        """`split`: the split of rows that have neither a `split` nor a `task_id`."""
        self._environments, self._split = environments, split
        self._session: SyncSession | None = None
        self._state: StepOutcome | None = None
        self._return = 0.0

    def reset(self, **row: Any) -> str:
        """Start an episode of the task in `row` (a row of the data set). Returns the first observation.

        TRL appends the observation to the prompt.
        """
        task = {name: row[name] for name in TASK_COLUMNS if row.get(name) is not None}
        if self._split is not None and "task_id" not in task:
            task.setdefault("split", self._split)
        self._return = 0.0
        self._state = self._begin(task)
        return _message(self._state, self._state.prompt)

    def act(self, action: str) -> str:
        """Take one action in the environment and read what happens.

        Args:
            action: The action, exactly one, as the task describes it.

        Returns:
            What the environment shows afterwards.
        """
        valid_text("action", action)
        if self._session is None or self._state is None:
            raise ValueError("no episode has started: call reset first")
        if self._state.done:
            raise ValueError("the episode is over: no further action can be taken")
        self._state = self._session.step(action)
        self._return += self._state.reward
        shown = _message(self._state, self._state.observation.text)
        return shown + ("\nThe episode is over." if self._state.done else "")

    def get_reward(self) -> float:
        """Returns the sum of the episode's rewards so far."""
        return self._return

    def _close(self) -> None:
        """Close the session. This method is private, because TRL would make a public method a tool for the model."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _begin(self, task: dict[str, Any]) -> StepOutcome:
        if self._session is not None:
            try:
                return self._session.reset(**task)
            except SessionLost:
                pass  # the session has ended; a new session is opened below
        (self._session,) = self._environments.open(1)
        return self._session.reset(**task)


def _message(state: StepOutcome, default: str) -> str:
    """Returns the observation's `message`, or `default` if the environment is not a conversation."""
    message = state.observation.message
    return default if message is None else message


def environment_factory(
    url: str, *, split: str | None = None, token: str | None = None
) -> Callable[[], TrlEnvironment]:
    """Returns a function that creates environments for TRL. All these environments share one client.

    `url`, `token`: address and bearer token of the environment server. `split`: see `TrlEnvironment`.

    Raises:
        TypeError, ValueError: an argument is invalid. The message contains the argument's name.
    """
    if split is not None:
        valid_text("split", split)
    environments = SyncEnvironments(url, token=token)
    created: list[TrlEnvironment] = []

    def create() -> TrlEnvironment:
        created.append(TrlEnvironment(environments, split))
        return created[-1]

    @atexit.register  # TRL does not close its environments
    def close() -> None:
        for environment in created:
            environment._close()
        environments.close()

    return create
