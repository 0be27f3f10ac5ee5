"""Sessions of an OpenEnv server. They have the interface of `client.environments.Session`."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any, NoReturn

from arlarena.client.arguments import valid_text
from arlarena.client.environments import Session, StepOutcome
from arlarena.client.errors import ProtocolError, Refused
from arlarena.proto.env_api import ExpertReply, Metadata, Observation, Snapshot
from arlarena.rollout.evaluation.openenv.rules import (
    PROMPT_FIELD,
    ActionReading,
    ActionRule,
    OpenEnvSettings,
    observation_text,
    visible,
)
from arlarena.rollout.evaluation.openenv.socket import VALIDATION_STATUS, OpenEnvSocket


@dataclass(frozen=True, slots=True)
class OpenEnvRules:
    """The rules for playing an environment.

    Attributes:
        name: name of the environment.
        settings: how the environment is played.
        action: reads actions from replies.
        instructions: text for the model before an observation, or "".
    """

    name: str
    settings: OpenEnvSettings
    action: ActionRule
    instructions: str


@dataclass(frozen=True, slots=True)
class OpenEnvState:
    """The state that the server reports after a reset or a step. `reward`: None if the server reports no reward."""

    observation: dict[str, Any]
    reward: float | None
    done: bool

    @classmethod
    def of(cls, data: dict[str, Any], address: str) -> OpenEnvState:
        """Check the data of the server's reply, and convert it to a state.

        The last state of an episode needs a reward, because the reward decides whether the episode is a success.
        OpenEnv's server sends null for a reward that is not a finite number.

        Raises:
            ProtocolError: a field is missing or invalid.
        """
        for name in ("observation", "reward", "done"):
            if name not in data:
                raise ProtocolError(f"{address}: {name} is missing")
        observation, reward, done = data["observation"], data["reward"], data["done"]
        if not isinstance(observation, dict):
            raise ProtocolError(f"{address}: observation is {type(observation).__name__}, not an object")
        if not isinstance(done, bool):
            raise ProtocolError(f"{address}: done is {type(done).__name__}, not true or false")
        if reward is None:
            if done:
                raise ProtocolError(f"{address}: reward is null or not finite at the end of an episode")
            return cls(observation, None, done)
        return cls(observation, _finite(reward, address), done)


def _finite(reward: object, address: str) -> float:
    try:
        number = float(reward) if isinstance(reward, int | float) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        shown = reward if isinstance(reward, float) else type(reward).__name__
        raise ProtocolError(f"{address}: reward is {shown}, not a finite number")
    return number


class OpenEnvEpisode:
    """Converts the server's replies to the outcomes of one episode.

    OpenEnv reports no hash of the state. The state key is therefore a hash of the task and all observations so far. It
    changes in each turn, except after a reply without a valid action. The content key is a hash of the task and the
    first observation. It does not depend on the setting `text_field`.
    """

    def __init__(self, rules: OpenEnvRules, task_id: str, address: str) -> None:
        self._rules, self._task_id, self._address = rules, task_id, address
        self._key = _digest(rules.name, task_id)
        self._observation_key = self._content_key = ""
        self._turn = 0
        self._prompt = ""
        self._conversation = True

    def first(self, state: OpenEnvState) -> StepOutcome:
        """Return the outcome of the reset."""
        return self._observe(state, ActionReading({}))

    def stepped(self, state: OpenEnvState, action: ActionReading) -> StepOutcome:
        """Return the outcome of a step."""
        self._turn += 1
        return self._observe(state, action)

    def rejected(self, action: ActionReading) -> StepOutcome:
        """Return the outcome of a reply without a valid action. The state is unchanged. The text names the problem."""
        self._turn += 1
        prompt = action.problem if self._conversation else f"{self._prompt}\n\n{action.problem}"
        return self._outcome(action.problem, prompt, OpenEnvState({}, None, False), action, valid=False)

    def _observe(self, state: OpenEnvState, action: ActionReading) -> StepOutcome:
        settings = self._rules.settings
        field, text = observation_text(state.observation, settings.text_field, self._address, first=self._turn == 0)
        content = visible(state.observation)
        self._key = _digest(self._key, content, text, str(state.done))
        self._observation_key = _digest(self._task_id, content, text)
        chosen = settings.conversation
        if self._turn == 0:
            self._content_key = _digest(self._rules.name, self._task_id, content)
            self._conversation = field != PROMPT_FIELD if chosen is None else chosen
        first = self._turn == 0 or not self._conversation
        self._prompt = f"{self._rules.instructions}\n\n{text}" if first and self._rules.instructions else text
        return self._outcome(text, self._prompt, state, action, valid=True)

    def _outcome(
        self, text: str, prompt: str, state: OpenEnvState, action: ActionReading, *, valid: bool
    ) -> StepOutcome:
        settings, remaining = self._rules.settings, max(0, self._rules.settings.max_steps - self._turn)
        reward = state.reward or 0.0
        cut = state.done and state.observation.get("truncated") is True
        observation = Observation(
            text=text,
            prompt=prompt,
            step=self._turn,
            remaining_steps=remaining,
            admissible_actions=list(self._rules.action.choices) or None,
            terminated=state.done and not cut,
            truncated=cut or (remaining == 0 and not state.done),
            action_valid=valid,
            format_valid=action.data is not None,
            message=prompt if self._conversation else None,
        )
        metadata = Metadata(
            task_id=self._task_id,
            state_key=self._key,
            observation_key=self._observation_key,
            score=min(1.0, max(0.0, reward)) if state.done or remaining == 0 else 0.0,
            success=state.done and settings.success(reward),
            action=action.shown,
            no_action=action.data is None,
            content_key=self._content_key,
        )
        return StepOutcome(observation, metadata, reward if self._turn else 0.0)


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


class OpenEnvSession(Session):
    """A session with its own WebSocket. Calls must not overlap. If the connection is lost, the session is lost."""

    def __init__(self, socket: OpenEnvSocket, rules: OpenEnvRules, number: int) -> None:
        """Create a session for an open socket. Callers use `OpenEnvClient.open` instead."""
        self.id = f"{socket.address}#{number}"
        self._socket, self._rules = socket, rules
        self._episode: OpenEnvEpisode | None = None

    async def reset(
        self,
        *,
        split: str | None = None,
        index: int | None = None,
        seed: int | None = None,
        episode_id: str | None = None,
        task_id: str | None = None,
    ) -> StepOutcome:
        """Start an episode of the task with this `split` and `index`, and return the first state.

        Raises:
            SessionLost, Unavailable: the connection is lost, or the server failed. Open a new session.
            Refused: the server does not have the task, or `task_id` is given. OpenEnv has no task ids.
            ProtocolError: the server's reply is invalid. The message names the field.
        """
        if task_id is not None:
            self._missing("task ids")
        split, index, seed = split or "", index or 0, seed or 0
        data = self._rules.settings.reset_data(split, index, seed)
        if episode_id is not None:
            data["episode_id"] = valid_text("episode_id", episode_id)
        self._episode = None
        address = f"{self._socket.address}: reset"
        state = OpenEnvState.of(await self._socket.request("reset", data), address)
        episode = OpenEnvEpisode(self._rules, f"{self._rules.name}/{split}/{index}/{seed}", address)
        outcome = episode.first(state)
        self._episode = episode
        return outcome

    async def step(self, text: str) -> StepOutcome:
        """Take one step with a model's reply, and return the new state.

        The environment gets no action if the reply has no action or if the action does not match the schema. Such a
        reply still counts as a turn. The next message explains the problem to the model.

        Raises:
            SessionLost, Unavailable: the connection is lost, or the server failed. Open a new session.
            Refused: the environment failed, possibly because of the reply. Or `reset` was not called before.
            ProtocolError: the server's reply is invalid. The message names the field.
        """
        if self._episode is None:
            raise Refused(f"{self._socket.address}: step before a reset", 400)
        action = self._rules.action.read(valid_text("the action", text))
        if action.data is None:
            return self._episode.rejected(action)
        address = f"{self._socket.address}: step"
        try:
            data = await self._socket.request("step", action.data)
        except Refused as error:
            if error.status != VALIDATION_STATUS:
                raise
            problem = f"The environment did not accept your action: {str(error).removeprefix(f'{address}: ')}"
            return self._episode.rejected(ActionReading(None, action.shown, problem))
        return self._episode.stepped(OpenEnvState.of(data, address), action)

    async def close(self) -> None:
        """End the session. Errors are ignored."""
        await self._socket.close()

    async def expert(self) -> ExpertReply:
        """Raise Refused: OpenEnv has no expert."""
        self._missing("an expert")

    async def fork(self, count: int = 1, *, ttl_s: float | None = None) -> list[Session]:
        """Raise Refused: OpenEnv has no forks."""
        self._missing("forks")

    async def snapshot(self) -> Snapshot:
        """Raise Refused: OpenEnv has no snapshots."""
        self._missing("snapshots")

    async def restore(self, snapshot: Snapshot) -> StepOutcome:
        """Raise Refused: OpenEnv has no snapshots."""
        self._missing("snapshots")

    def _missing(self, feature: str) -> NoReturn:
        raise Refused(f"{self._socket.address}: OpenEnv servers have no {feature.removeprefix('an ')}", 404)
