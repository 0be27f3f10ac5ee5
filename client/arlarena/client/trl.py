"""Our environments in TRL's `GRPOTrainer(environment_factory=…)`: an episode behind a tool named `act`.

    trainer = GRPOTrainer(…, environment_factory=environment_factory("http://127.0.0.1:8000"), train_dataset=…)

A row of the data set names its task by the columns `split`, `index`, `seed` or `task_id`; other columns are not the
environment's. The class needs nothing of TRL: it has the methods that TRL 1 looks for (`reset`, `get_reward`, and every
other public method as a tool, described by its docstring).
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
from typing import Any

from arlarena.client.arguments import text_of
from arlarena.client.environments import StepOutcome
from arlarena.client.errors import SessionLost
from arlarena.client.sync import SyncEnvironments, SyncSession

TASK_COLUMNS = ("split", "index", "seed", "task_id")


class TrlEnvironment:
    """One episode at a time. Sessions are opened when first needed, and again where the server has forgotten them."""

    def __init__(self, environments: SyncEnvironments, split: str | None = None) -> None:
        """`split`: where a row names none."""
        self._environments, self._split = environments, split
        self._session: SyncSession | None = None
        self._state: StepOutcome | None = None
        self._return = 0.0

    def reset(self, **row: Any) -> str:
        """Begin the row's task; its first observation is what TRL appends to the prompt."""
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
        text_of("action", action)
        if self._session is None or self._state is None:
            raise ValueError("no episode has begun: reset comes first")
        if self._state.done:
            raise ValueError("the episode is over: no further action can be taken")
        self._state = self._session.step(action)
        self._return += self._state.reward
        shown = _message(self._state, self._state.observation.text)
        return shown + ("\nThe episode is over." if self._state.done else "")

    def get_reward(self) -> float:
        """The return of the episode so far."""
        return self._return

    def _give_back(self) -> None:
        """Close the session. Not public: TRL would offer it to the model as a tool."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _begin(self, task: dict[str, Any]) -> StepOutcome:
        if self._session is not None:
            try:
                return self._session.reset(**task)
            except SessionLost:
                pass  # it was idle for too long; another one will do
        (self._session,) = self._environments.open(1)
        return self._session.reset(**task)


def _message(state: StepOutcome, otherwise: str) -> str:
    """What the environment says next in a conversation, which TRL keeps; `otherwise` where it has no such thing."""
    message = state.observation.message
    return otherwise if message is None else message


def environment_factory(
    url: str, *, split: str | None = None, token: str | None = None
) -> Callable[[], TrlEnvironment]:
    """What TRL calls for each environment that it needs; all of them share one client.

    Raises:
        TypeError, ValueError: an argument that cannot be used; the message names it.
    """
    if split is not None:
        text_of("split", split)
    environments = SyncEnvironments(url, token=token)
    made: list[TrlEnvironment] = []

    def make() -> TrlEnvironment:
        made.append(TrlEnvironment(environments, split))
        return made[-1]

    @atexit.register  # TRL ends without a word to its environments
    def close() -> None:
        for one in made:
            one._give_back()
        environments.close()

    return make
