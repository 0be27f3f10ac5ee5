"""Messages between trainer and rollout workers: tasks, and complete groups of trajectories.

    GroupTask  play a Task G times              trainer -> rollout worker   (stream `tasks`)
    Group      Task + G trajectories of turns   rollout worker -> trainer   (stream `groups`)

All messages are msgspec Structs in MessagePack. Token ids, log-probs and masks are packed little-endian arrays, so
decoding a group takes microseconds. `schema` is the version of the message format. A new field with a default does not
change the schema. A renamed field increases the schema, and `convert.py` converts older files.

A turn stores only the prompt tokens that are new since the previous turn. A conversation of T turns therefore stores
O(T) tokens.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from arlarena.proto.atomic_files import open_atomic

SCHEMA_VERSION = 3

IdArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]
MaskArray = npt.NDArray[np.uint8]

FinishReason = Literal["stop", "length", "abort"]
Outcome = Literal["ok", "policy_error"]


class PolicyVersion(msgspec.Struct, frozen=True):
    """Identifies the weights of a policy.

    `incarnation`: random id of the trainer process. `step`: the optimiser step. `digest`: hash of the weights. The step
    alone is ambiguous: after a crash between push and checkpoint, two policies may have the same step.
    """

    incarnation: str
    step: int
    digest: str

    def __str__(self) -> str:
        return f"{self.incarnation}:{self.step}:{self.digest}"

    @classmethod
    def parse(cls, text: str) -> PolicyVersion:
        """Parse the text form that `str` returns.

        Raises:
            ValueError: `text` is not `incarnation:step:digest`.
        """
        parts = text.split(":")
        if len(parts) != 3 or not parts[1].lstrip("-").isdigit():
            raise ValueError(f"policy version {text!r} is not of the form incarnation:step:digest")
        return cls(parts[0], int(parts[1]), parts[2])


class VersionSpan(msgspec.Struct, frozen=True):
    """Says that the weights with this `version` sampled the response tokens from `start` to `end` - 1."""

    start: int
    end: int
    version: PolicyVersion


class Sampling(msgspec.Struct, frozen=True):
    """Sampling parameters. `top_k`: 0 means no limit. `max_tokens`: maximum length of a response in tokens.

    Training needs `top_p` 1 and `top_k` 0. With other values, the sampler does not sample from the policy's
    distribution.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 512


class Task(msgspec.Struct, frozen=True):
    """One task of an environment, selected by `split` and `index`.

    `seed`: random seed of the episode. `name`: the task's name, or "" if the environment does not name its tasks.
    """

    environment: str
    split: str
    index: int
    seed: int = 0
    name: str = ""

    @property
    def id(self) -> str:
        """A readable and stable id, for example `sokoban/train/17`."""
        return f"{self.environment}/{self.split}/{self.name or self.index}"


class GroupTask(msgspec.Struct, frozen=True):
    """A request for one group: the worker plays `size` episodes of `task` with the newest weights.

    `issued_at_step`: the trainer's optimiser step when it issued the request.
    """

    group_id: str
    task: Task
    size: int
    sampling: Sampling
    issued_at_step: int = 0
    schema: int = SCHEMA_VERSION


class Turn(msgspec.Struct):
    """One prompt and one response, as a segment of the episode's tokens.

    If `reset` is true, `new_prompt_ids` is the full prompt. Otherwise the full prompt consists of the previous turn's
    full prompt, the previous turn's response, and `new_prompt_ids`. `reset` is true for the first turn. It is also true
    for a turn if its prompt does not begin with the previous turn's prompt and response.

    `new_prompt_ids`, `response_ids`: packed int32. `logprobs`: packed float32, log-probs of the response tokens in nats
    under the sampling distribution at the task's temperature. `loss_mask`: packed uint8, 1 for tokens that the policy
    sampled. `spans`: the weight version of each range of response tokens. `state_key`, `observation_key`: see
    `env_api.Metadata`. `images`: hashes of the images in the prompt. `no_action`: True if the response contains no
    action. `admissible_actions`: the actions that the environment listed before the turn; empty if it lists none.
    """

    new_prompt_ids: bytes
    response_ids: bytes
    logprobs: bytes
    loss_mask: bytes
    spans: tuple[VersionSpan, ...]
    reward: float
    state_key: str
    observation_key: str
    action_valid: bool
    format_valid: bool
    finish_reason: FinishReason
    observation: str = ""
    response: str = ""
    action: str = ""
    images: tuple[str, ...] = ()
    no_action: bool = False
    reset: bool = True
    admissible_actions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.new_prompt_ids) % 4 or len(self.response_ids) % 4:
            raise ValueError("token ids are packed int32: their number of bytes must be a multiple of 4")
        n = len(self.response_ids) // 4
        if len(self.logprobs) != 4 * n or len(self.loss_mask) != n:
            raise ValueError(
                f"a turn of {n} response tokens has {len(self.logprobs) / 4:g} log-probs and a loss mask of "
                f"length {len(self.loss_mask)}: the lengths must be equal"
            )
        if self.loss_mask.translate(None, b"\0\1"):
            raise ValueError("a loss mask may contain only 0 and 1")

    def new_prompt(self) -> IdArray:
        """Returns the ids of the N prompt tokens that are new since the previous turn, int32 [N].

        `Trajectory.prompts` returns the full prompts.
        """
        return np.frombuffer(self.new_prompt_ids, dtype="<i4")

    def tokens(self) -> IdArray:
        """Returns the ids of the T response tokens, int32 [T]."""
        return np.frombuffer(self.response_ids, dtype="<i4")

    def behaviour_logprobs(self) -> FloatArray:
        """Returns the log-probs of the response tokens under the sampler, float32 [T], nats."""
        return np.frombuffer(self.logprobs, dtype="<f4")

    def mask(self) -> MaskArray:
        """Returns the loss mask of the response tokens, uint8 [T]."""
        return np.frombuffer(self.loss_mask, dtype="u1")


class Trajectory(msgspec.Struct):
    """One episode. `outcome`: `policy_error` if the policy caused an error; the score is then 0.

    `fault`: the error's message, such as "a prompt of 900 tokens leaves no room in a context of 512". `kind`: see
    `env_api.Metadata`.
    """

    id: str
    seed: int
    turns: tuple[Turn, ...]
    terminated: bool
    truncated: bool
    score: float
    success: bool
    outcome: Outcome = "ok"
    duration_s: float = 0.0
    metrics: dict[str, float] = {}
    fault: str = ""
    kind: str = ""

    def __post_init__(self) -> None:
        if self.turns and not self.turns[0].reset:
            raise ValueError("the first turn of an episode must have `reset`")

    def conversations(self) -> list[tuple[int, int]]:
        """Returns (first, end) of each conversation: it consists of the turns [first, end). `reset` starts it."""
        starts = [number for number, turn in enumerate(self.turns) if turn.reset]
        return list(itertools.pairwise([*starts, len(self.turns)]))

    def prompts(self) -> list[IdArray]:
        """Returns the full prompt of each turn, int32 [prompt length]. Prompts of one conversation share memory."""
        lengths, prompts = prompt_lengths(self.turns), list[IdArray]()
        for first, last in self.conversations():
            turns = self.turns[first:last]
            tokens = np.concatenate([ids for turn in turns for ids in (turn.new_prompt(), turn.tokens())])
            prompts += [tokens[:length] for length in lengths[first:last]]
        return prompts

    @property
    def total_reward(self) -> float:
        """The undiscounted sum of the environment's rewards, without the trainer's penalties."""
        return float(sum(turn.reward for turn in self.turns))


def prompt_lengths(turns: Iterable[Turn]) -> list[int]:
    """Returns the number of tokens in the full prompt of each turn. `turns`: all turns of an episode, in order."""
    lengths, end = list[int](), 0
    for turn in turns:
        lengths.append((0 if turn.reset else end) + len(turn.new_prompt_ids) // 4)
        end = lengths[-1] + len(turn.response_ids) // 4
    return lengths


class Group(msgspec.Struct):
    """The episodes of one task. The worker sends them together, and the trainer computes advantages within the group.

    `size`: number of episodes. `oldest`, `newest`: the oldest and the newest weight version that sampled tokens of the
    group. `worker`: the worker's name. `retries`: number of episode restarts after failures of a service.
    """

    id: str
    task: Task
    size: int
    trajectories: tuple[Trajectory, ...]
    sampling: Sampling
    oldest: PolicyVersion
    newest: PolicyVersion
    worker: str = ""
    retries: int = 0
    schema: int = SCHEMA_VERSION


def pack_ids(ids: Iterable[int]) -> bytes:
    """Returns the token ids as packed little-endian int32.

    Raises:
        ValueError: an id is not an integer, or is outside [0, 2**31).
    """
    values = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids))
    if values.size and not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"token ids must be integers, not {values.dtype}")
    if values.size and (values.min() < 0 or values.max() > np.iinfo(np.int32).max):
        raise ValueError(f"token ids must be in [0, 2**31), not {values.min()} to {values.max()}")
    return values.astype("<i4").tobytes()


def pack_floats(values: Iterable[float]) -> bytes:
    """Returns the log-probs as packed little-endian float32."""
    return np.asarray(values if isinstance(values, np.ndarray) else list(values), dtype="<f4").tobytes()


class _Header(msgspec.Struct):
    """The only field that messages of all schemas have."""

    schema: int = SCHEMA_VERSION


_Message = TypeVar("_Message", Group, GroupTask)
_encoder = msgspec.msgpack.Encoder()
_header_decoder = msgspec.msgpack.Decoder(_Header)
_group_decoder = msgspec.msgpack.Decoder(Group)
_task_decoder = msgspec.msgpack.Decoder(GroupTask)


class SchemaError(ValueError):
    """The bytes are not a valid message, or the message's schema is not `SCHEMA_VERSION`."""


def encode(message: Group | GroupTask) -> bytes:
    """Encode a group or a task as MessagePack."""
    return _encoder.encode(message)


def _check_schema(kind: str, schema: int) -> None:
    if schema > SCHEMA_VERSION:
        raise SchemaError(f"{kind} has schema {schema}, but this code reads {SCHEMA_VERSION}: update arlarena-proto")
    if schema < SCHEMA_VERSION:
        raise SchemaError(
            f"{kind} has schema {schema}, but this code reads {SCHEMA_VERSION}: convert files with "
            "`python -m arlarena.proto.convert OLD NEW`; continue runs with the release that started them"
        )


def decode_group(data: bytes) -> Group:
    """Decode a group.

    Raises:
        SchemaError: the bytes are malformed, or their schema is not `SCHEMA_VERSION`.
    """
    return _decoded("group", _group_decoder, data)


def decode_group_task(data: bytes) -> GroupTask:
    """Decode a group task.

    Raises:
        SchemaError: the bytes are malformed, or their schema is not `SCHEMA_VERSION`.
    """
    return _decoded("group task", _task_decoder, data)


def _decoded(kind: str, decoder: msgspec.msgpack.Decoder[_Message], data: bytes) -> _Message:
    try:
        message = decoder.decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):  # report a schema mismatch first
            _check_schema(kind, _header_decoder.decode(data).schema)
        raise SchemaError(f"not a {kind}: {error}") from error
    _check_schema(kind, message.schema)
    return message


def write_groups(path: Path, groups: Iterable[Group]) -> int:
    """Write groups to a file. Returns the number of groups.

    For each group, the file contains the length of the group's MessagePack in bytes (4 bytes, little-endian), then the
    MessagePack.
    """
    count = 0
    with open_atomic(path) as file:
        for group in groups:
            data = encode(group)
            file.write(len(data).to_bytes(4, "little") + data)
            count += 1
    return count


def read_groups(path: Path) -> list[Group]:
    """Read a file that `write_groups` wrote.

    Raises:
        SchemaError: the file is truncated, does not contain groups, or a group's schema is not `SCHEMA_VERSION`.
        OSError: the file cannot be read.
    """
    data = path.read_bytes()
    groups: list[Group] = []
    offset = 0
    while offset < len(data):
        size = int.from_bytes(data[offset : offset + 4], "little")
        body = data[offset + 4 : offset + 4 + size]
        if len(body) != size:
            raise SchemaError(f"{path} is truncated after {len(groups)} groups")
        groups.append(decode_group(body))
        offset += 4 + size
    return groups


def json_schemas() -> dict[str, dict[str, Any]]:
    """Returns {name: JSON Schema} of `GroupTask` and `Group`. A test compares them with the files in proto/schemas."""
    return {kind.__name__: msgspec.json.schema(kind) for kind in (GroupTask, Group)}
