"""Gymnasium environments that run on an environment server. See `docs/how-to/use-a-client.md` for the installation.

    env = TextEnv("http://127.0.0.1:8000", split="train")
    observation, info = env.reset(options={"index": 7})
    observation, reward, terminated, truncated, info = env.step("up")

Observations are prompts. An action is either a model's full reply, or only the action in the reply. `TextVectorEnv`
plays many episodes at the same time, and sends the steps of all episodes in one request. If an episode has ended, the
next call of `step` resets this environment (Gymnasium's next-step autoreset).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import msgspec
import numpy as np
import numpy.typing as npt
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv

from arlarena.client.arguments import shown, valid_integer, valid_text
from arlarena.client.environments import StepOutcome
from arlarena.client.sync import SyncEnvironments, SyncSession
from arlarena.proto.env_api import Info, Split

# In a split without a size, the random generator draws task indices from [0, ENDLESS_TASKS).
ENDLESS_TASKS = 2**31 - 1
# The valid keys of `reset(options=…)` in `TextEnv`, and in `TextVectorEnv`. Keys with the value None are ignored.
OPTIONS, VECTOR_OPTIONS = ("index", "split", "task_id", "episode_id"), ("indices",)

Texts = npt.NDArray[np.object_]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class AnyText(gymnasium.Space[str]):
    """The Gymnasium space that contains all texts. `sample` returns one of `examples`."""

    def __init__(self, examples: Sequence[str] = ("",)) -> None:
        super().__init__(shape=(), dtype=None)
        self.examples = tuple(examples)

    def contains(self, x: Any) -> bool:
        """True if `x` is a Python or numpy string that can be encoded as UTF-8."""
        try:
            valid_text("the action", x)
        except (TypeError, ValueError):
            return False
        return True

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        """Returns a random example."""
        return self.examples[int(self.np_random.integers(len(self.examples)))]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AnyText) and other.examples == self.examples

    def __hash__(self) -> int:
        return hash(self.examples)


def _info(state: StepOutcome) -> dict[str, Any]:
    """Returns Gymnasium's info dictionary: the metadata, and the observation's fields in `names`."""
    observation = state.observation
    names = ("text", "message", "admissible_actions", "step", "action_valid", "format_valid")
    return msgspec.structs.asdict(state.metadata) | {name: getattr(observation, name) for name in names}


def _seed(seed: int | None) -> int | None:
    """Returns `seed` as a Python integer or None. Gymnasium rejects numpy scalars.

    Raises:
        TypeError, ValueError: `seed` is not a valid integer.
    """
    return None if seed is None else valid_integer("seed", seed)


def _options(given: Mapping[str, Any] | None, known: Sequence[str]) -> dict[str, Any]:
    """Returns `given` (the options of a reset) without the entries whose value is None.

    Raises:
        TypeError: `given` is neither None nor a dictionary.
        ValueError: a key is not in `known`.
    """
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(f"options must be a dictionary of {', '.join(known)}, not {shown(given)}")
    options = {name: value for name, value in (given or {}).items() if value is not None}
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"options: unknown key {unknown[0]!r}; known: {', '.join(known)}")
    return options


def _connect(
    url: str, count: int, split: str | None, token: str | None
) -> tuple[SyncEnvironments, list[SyncSession], Info, Split]:
    """Connect to the server at `url`. Returns (client, `count` open sessions, environment's description, split).

    `split`: name of the split; None selects the first split. If an error occurs, closes the client.

    Raises:
        ValueError: the environment has no split with this name, or an argument is invalid.
        TypeError: an argument has the wrong type.
        ServiceError: see `EnvironmentClient.info` and `EnvironmentClient.open`.
    """
    environments = SyncEnvironments(url, token=token)
    try:
        info = environments.info()
        splits = {each.name: each for each in info.splits}
        name = info.splits[0].name if split is None else valid_text("split", split)
        if name not in splits:
            raise ValueError(f"split {name!r}: {info.name} at {url} has no such split; it has {', '.join(splits)}")
        return environments, environments.open(count), info, splits[name]
    except BaseException:
        environments.close()
        raise


class TextEnv(gymnasium.Env[str, str]):
    """A Gymnasium environment that plays one episode at a time on an environment server."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (as in Gymnasium)

    def __init__(self, url: str, *, split: str | None = None, token: str | None = None) -> None:
        self._environments, (self._session,), info, chosen = _connect(url, 1, split, token)
        self.split, self._tasks = chosen.name, chosen.size or ENDLESS_TASKS
        self._closed = False
        self.observation_space = AnyText()
        self.action_space = AnyText(info.actions or ("",))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode. Returns the first prompt and the info dictionary.

        `options` selects the task with these keys: `index`, `split`, `task_id`, `episode_id`. If both `index` and
        `task_id` are missing, the environment's random generator draws the index. `seed`: seed of this generator.
        """
        super().reset(seed=_seed(seed))
        task = _options(options, OPTIONS)
        if "task_id" not in task:
            task.setdefault("split", self.split)
            task.setdefault("index", int(self.np_random.integers(self._tasks)))
        state = self._session.reset(**task)
        return state.prompt, _info(state)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take a step. `action`: either a model's full reply, or only the action.

        Returns (prompt, reward, `terminated`, `truncated`, info dictionary).
        """
        state = self._session.step(action)
        observation = state.observation
        return state.prompt, state.reward, observation.terminated, observation.truncated, _info(state)

    def close(self) -> None:
        """Close the session and the connections. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._session.close()
            self._environments.close()


class TextVectorEnv(VectorEnv[Texts, Sequence[str], Any]):
    """A Gymnasium vector environment that plays several episodes at the same time on one environment server."""

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 (as in Gymnasium)

    def __init__(self, url: str, num_envs: int, *, split: str | None = None, token: str | None = None) -> None:
        self.num_envs = num_envs = valid_integer("num_envs", num_envs, least=1)
        self._environments, self._sessions, info, chosen = _connect(url, num_envs, split, token)
        self.split, self._tasks = chosen.name, chosen.size or ENDLESS_TASKS
        self.single_observation_space = AnyText()
        self.single_action_space = AnyText(info.actions or ("",))
        self.observation_space = gymnasium.spaces.Tuple([self.single_observation_space] * num_envs)
        self.action_space = gymnasium.spaces.Tuple([self.single_action_space] * num_envs)
        self._ended = np.zeros(num_envs, dtype=bool)
        self._generators = [np_random()[0] for _ in range(num_envs)]

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Texts, dict[str, Any]]:
        """Start an episode in each environment. Returns (first prompts, infos).

        `options["indices"]`: one task index for each environment. Without this option, each environment's random
        generator draws a task index. `seed`: either one seed for each environment, or a number `s` for the seeds `s`,
        `s + 1`, …. A `TextEnv` that is reset with an environment's seed draws the same tasks as this environment. If a
        seed is None, the generator of this environment keeps its state.

        Raises:
            TypeError, ValueError: a seed or an option is invalid, or the number of seeds or indices is wrong.
            ServiceError: the server is unavailable, or refuses a reset.
        """
        seeds = self._seeds(seed)
        indices = _options(options, VECTOR_OPTIONS).get("indices")
        for i, each in enumerate(seeds):
            if each is not None:
                self._generators[i] = np_random(each)[0]
        if indices is None:
            tasks = [self._draw(i) for i in range(self.num_envs)]
        else:
            tasks = [{"split": self.split, "index": index} for index in self._one_per_environment("indices", indices)]
        states = self._environments.reset_all(self._sessions, tasks)
        self._ended[:] = False
        return _prompts(states), _infos(states)

    def step(self, actions: Sequence[str]) -> tuple[Texts, Floats, Bools, Bools, dict[str, Any]]:
        """Take a step in each of the N environments. `actions`: one action for each environment.

        If an environment's episode ended at the previous step, this method resets the environment and ignores its
        action. The reward is then 0. Returns (prompts, rewards, `terminated`, `truncated`, infos). The first four are
        arrays [N].
        """
        actions = [
            valid_text(f"action {i}", action) for i, action in enumerate(self._one_per_environment("actions", actions))
        ]
        states: list[StepOutcome | None] = [None] * self.num_envs
        ended = [i for i in range(self.num_envs) if self._ended[i]]
        running = [i for i in range(self.num_envs) if not self._ended[i]]
        reset = self._environments.reset_all([self._sessions[i] for i in ended], [self._draw(i) for i in ended])
        stepped = self._environments.step_all([self._sessions[i] for i in running], [actions[i] for i in running])
        for i, state in zip((*ended, *running), (*reset, *stepped), strict=True):
            states[i] = state
        outcomes = [state for state in states if state is not None]
        terminated = np.array([state.observation.terminated for state in outcomes])
        truncated = np.array([state.observation.truncated for state in outcomes])
        self._ended = terminated | truncated
        rewards = np.array([state.reward for state in outcomes], dtype=np.float64)
        return _prompts(outcomes), rewards, terminated, truncated, _infos(outcomes)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the sessions and the connections."""
        for session in self._sessions:
            session.close()
        self._environments.close()

    def _one_per_environment(self, name: str, values: Any) -> list[Any]:
        """Returns `values` as a list with one value for each environment.

        Raises:
            TypeError, ValueError: `values` is not a sequence, or its length is wrong.
        """
        if isinstance(values, str | bytes) or not hasattr(values, "__len__") or getattr(values, "ndim", 1) == 0:
            raise TypeError(f"{name} must be a sequence of {self.num_envs} values, not {type(values).__name__}")
        if len(values) != self.num_envs:
            raise ValueError(f"{len(values)} {name} for {self.num_envs} environments: give one per environment")
        return list(values)

    def _seeds(self, given: Any) -> list[int | None]:
        """Returns one seed for each environment. If a seed is None, the environment's generator keeps its state.

        `given`: None, one number `s` for the seeds `s`, `s + 1`, …, or a sequence of seeds.
        """
        if given is None:
            return [None] * self.num_envs
        if not hasattr(given, "__len__") or getattr(given, "ndim", 1) == 0:
            first = valid_integer("seed", given)
            return [first + i for i in range(self.num_envs)]
        return [
            None if seed is None else valid_integer(f"seed {i}", seed)
            for i, seed in enumerate(self._one_per_environment("seeds", given))
        ]

    def _draw(self, i: int) -> dict[str, Any]:
        return {"split": self.split, "index": int(self._generators[i].integers(self._tasks))}


def _prompts(states: Sequence[StepOutcome]) -> Texts:
    return np.array([state.prompt for state in states], dtype=object)


def _infos(states: Sequence[StepOutcome]) -> dict[str, Any]:
    """Returns the infos in the form of Gymnasium's vector environments.

    For each key, the dictionary has an array with the values of all environments. The mask `_<key>` is true everywhere,
    because all environments have all keys.
    """
    infos = [_info(state) for state in states]
    arrays: dict[str, Any] = {}
    for key in infos[0]:
        values = np.empty(len(infos), dtype=object)
        values[:] = [info[key] for info in infos]
        arrays[key] = values
        arrays[f"_{key}"] = np.ones(len(infos), dtype=bool)
    return arrays
