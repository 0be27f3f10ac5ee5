"""Messages of the environment API: OpenEnv's routes and frames, and the routes for training under /v1.

    POST /v1/sessions   CreateSessions -> SessionList        POST /reset  ResetRequest -> StepResult
    POST /v1/batch      BatchRequest   -> BatchReply         POST /step   StepRequest  -> StepResult

Unknown fields in requests are errors, so a misspelt key is not ignored. Replies may gain fields. Frequent messages have
`gc=False`: they hold no reference cycles, so the garbage collector can skip them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

Blame = Literal["policy", "infra", "client"]
Operation = Literal["reset", "step", "state", "close"]

LARGEST_INDEX = 2**63 - 1  # of a task, a seed or a step: the largest signed 64-bit integer
Index = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_INDEX)]
EPISODE_ID_CHARS = 255  # OpenEnv's bound
EpisodeId = Annotated[str, msgspec.Meta(max_length=EPISODE_ID_CHARS)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class Ignored(msgspec.Struct, frozen=True, gc=False):
    """An object with any content. The decoder skips its values."""


class Action(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A player's reply: the full text of a model, or only an action. `metadata` exists in OpenEnv and is ignored."""

    text: str
    metadata: Ignored = Ignored()


class Image(msgspec.Struct, gc=False):
    """A frame, inline as base64 `data` or by `url`. `width` and `height` are in pixels."""

    mime: str
    sha256: str
    width: int
    height: int
    data: str | None = None
    url: str | None = None


class Observation(msgspec.Struct, gc=False):
    """The state as the player sees it after a reset or a step.

    `text`: the current observation, without history. `prompt`: the user message from the environment's template, with
    history, for players that keep no conversation. `message`: the next message of the environment in a conversation
    that keeps all turns (the problem, then each tool's result); None if each prompt is independent.
    `admissible_actions`: None if any text is allowed. `action_valid`, `format_valid`: whether the last reply was
    valid; True after a reset. `step`: steps taken. `remaining_steps`: steps until truncation.
    """

    text: str
    prompt: str
    step: int
    remaining_steps: int
    admissible_actions: list[str] | None = None
    terminated: bool = False
    truncated: bool = False
    action_valid: bool = True
    format_valid: bool = True
    images: list[Image] = []
    message: str | None = None


class Metadata(msgspec.Struct, gc=False):
    """Data for the trainer. It must not appear in a prompt.

    `state_key`: hash of task and simulator state, without counters. `observation_key`: hash of task and observation
    text. `score`: in [0, 1]. `action`: the action read from the reply, "" if none. `content_key`: hash of the task's
    content, independent of its index. `optimal_moves`: length of the shortest solution at the start, None if unknown.
    `kind`: the kind of the task if the environment has several, else "". `no_action`: the last step had no action,
    such as a reply with neither code nor an answer.
    """

    task_id: str
    state_key: str
    observation_key: str
    score: float = 0.0
    success: bool = False
    action: str = ""
    content_key: str = ""
    optimal_moves: int | None = None
    kind: str = ""
    no_action: bool = False


class StepResult(msgspec.Struct, gc=False):
    """The result of a reset (`reward` None) or a step. `done`: terminated or truncated."""

    observation: Observation
    reward: float | None
    done: bool
    metadata: Metadata | None = None


class ResetSpec(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Selects a task by `task_id`, by `split` and `index`, or by `seed`, an index of the split (default: train)."""

    seed: Index | None = None
    split: str | None = None
    index: Index | None = None
    task_id: str | None = None
    episode_id: EpisodeId | None = None


class ResetRequest(ResetSpec, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /reset`. Without `session_id` no session is kept."""

    session_id: str | None = None


class StepRequest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /step`. Without `session_id` it is the first step of a new episode. `step_index`: see `BatchItem`."""

    action: Action
    session_id: str | None = None
    step_index: Index | None = None
    timeout_s: Seconds | None = None
    request_id: str | None = None


class State(msgspec.Struct):
    """`GET /state`: the state of an episode. Without an episode, all fields but `step_count` are None."""

    episode_id: str | None = None
    step_count: int = 0
    session_id: str | None = None
    task_id: str | None = None
    done: bool | None = None


class CreateSessions(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /v1/sessions`: creates all `count` sessions or none.

    `reset`: empty, one for all sessions, or one for each. `ttl_s`: idle time until a session ends.
    """

    count: Annotated[int, msgspec.Meta(ge=1)] = 1
    reset: list[ResetSpec] = []
    group_id: str | None = None
    ttl_s: Seconds | None = None


class OpenedSession(msgspec.Struct, omit_defaults=True):
    """A session. `lease_expires_at`: when it ends without further requests, in Unix seconds."""

    session_id: str
    lease_expires_at: float
    group_id: str | None = None
    task_id: str | None = None
    step_count: int = 0
    result: StepResult | None = None


class SessionList(msgspec.Struct):
    """Sessions in the order of their creation."""

    sessions: list[OpenedSession]


class Lease(msgspec.Struct):
    """`POST /v1/sessions/{id}/heartbeat`: the new end of the session, in Unix seconds."""

    session_id: str
    lease_expires_at: float


class ForkRequest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /v1/sessions/{id}/fork`: creates all `count` sessions with a copy of the state, or none."""

    count: Annotated[int, msgspec.Meta(ge=1)] = 1
    group_id: str | None = None
    ttl_s: Seconds | None = None


class Snapshot(msgspec.Struct):
    """`POST /v1/sessions/{id}/snapshot`: a saved state. `expires_at`: its end if it is not used, in Unix seconds."""

    snapshot_id: str
    expires_at: float
    task_id: str
    step_count: int


class RestoreRequest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /v1/snapshots/{id}/restore`: restores into `session_id`, or into a new session without it."""

    session_id: str | None = None
    group_id: str | None = None
    ttl_s: Seconds | None = None


class BatchItem(ResetSpec, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, gc=False):
    """One operation of a batch. The fields of `ResetSpec` belong to `reset`, `action` and `step_index` to `step`.

    `step_index` must equal the session's step count. With the index and action of the last step, the server repeats
    its last reply and takes no step, so a request whose reply was lost can be retried.
    """

    session_id: str
    op: Operation
    action: Action | None = None
    step_index: Index | None = None
    request_id: str | None = None


class BatchRequest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /v1/batch`. Items of one session are executed in order. `deadline_s`: for all items together."""

    items: list[BatchItem]
    deadline_s: Seconds | None = None


class Error(msgspec.Struct):
    """An error, the party that caused it (`blame`), and whether a retry may succeed."""

    code: str
    message: str
    blame: Blame
    retryable: bool


class ErrorReply(Error):
    """The body of every HTTP error. `detail` repeats the message in the form that OpenEnv's clients read."""

    detail: list[dict[str, Any]] = []


class BatchResult(msgspec.Struct, gc=False):
    """The result of one item: a step result, a state, or an error."""

    session_id: str
    ok: bool
    request_id: str | None = None
    observation: Observation | None = None
    reward: float | None = None
    done: bool = False
    metadata: Metadata | None = None
    state: State | None = None
    error: Error | None = None


class BatchReply(msgspec.Struct):
    """Results in the order of the items."""

    results: list[BatchResult]


class ExpertReply(msgspec.Struct):
    """`text`: the expert's next reply. `plan`: this reply and all later ones until the end of the episode."""

    text: str
    plan: list[str]


class Split(msgspec.Struct):
    """A set of tasks. `size` None: any index is valid. `evaluation`: held out, so without an expert by default."""

    name: str
    type: Literal["train", "validation", "test"]
    size: int | None
    evaluation: bool


class Template(msgspec.Struct):
    """The exact prompt template."""

    name: str
    version: str
    text: str


class Parser(msgspec.Struct):
    """How replies are parsed: version and description.

    `tags`: texts with a meaning in a reply, such as "<action>". They are plain text even if a tokenizer has them as
    special tokens, and become one token each in a tiny policy. `action`: the form of an action in a reply, after the
    thought, with the placeholder `{action}`; a reply with an empty action is invalid. "": replies are free text.
    """

    version: str
    description: str
    tags: list[str] = []
    action: str = ""


class DataSource(msgspec.Struct):
    """The source of the tasks.

    `description`: one line for display, such as "generated by this server" or "files of /data". `official`: whether
    they are the data set of published results; None if this is unknown or there is no such data set.
    """

    description: str
    official: bool | None = None


class Info(msgspec.Struct):
    """`GET /v1/info`: the description of the environment, sufficient to decide whether two results are comparable.

    `stop`: stop strings for samplers; text after them is ignored. `data`: the source of the tasks, None if unknown.
    `vocabulary`: frequent parts of observations and replies, which become one token each in a tiny policy. `paths`:
    names of the options that are paths of files or folders; the star in "tests.*" matches each key of the table
    `tests`.
    """

    name: str
    version: str
    description: str
    template: Template
    parser: Parser
    rewards: dict[str, float]
    horizon: int
    actions: list[str] | None
    splits: list[Split]
    options: dict[str, Any]
    capabilities: list[str]
    stop: list[str] = []
    data: DataSource | None = None
    vocabulary: list[str] = []
    paths: list[str] = []


class Capacity(msgspec.Struct):
    """`GET /v1/capacity`, in sessions."""

    max_sessions: int
    active_sessions: int
    available: int
    draining: bool


class OpenEnvMetadata(msgspec.Struct):
    """`GET /metadata`, in OpenEnv's form."""

    name: str
    description: str
    version: str
    readme_content: str | None = None
    author: str | None = None
    documentation_url: str | None = None


class Schemas(msgspec.Struct):
    """`GET /schema`: JSON Schemas of action, observation and state."""

    action: dict[str, Any]
    observation: dict[str, Any]
    state: dict[str, Any]


class Health(msgspec.Struct, omit_defaults=True):
    """`GET /health` and `/ready`. `details`: the state of external dependencies, such as the layers of the sandbox."""

    status: Literal["healthy", "unhealthy", "degraded", "ready", "draining"]
    details: dict[str, Any] | None = None
