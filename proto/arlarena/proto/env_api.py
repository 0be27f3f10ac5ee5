"""Messages of the environment API: OpenEnv's routes and WebSocket messages, and the routes for training under /v1.

    POST /v1/sessions   CreateSessions -> SessionList        POST /reset  ResetRequest -> StepResult
    POST /v1/batch      BatchRequest   -> BatchReply         POST /step   StepRequest  -> StepResult

Unknown fields in requests are errors, so that a misspelt key is noticed. New releases can add fields to replies.
Frequent messages have `gc=False`, so the garbage collector skips them. This is safe, because these messages contain no
reference cycles. An environment's expert is a scripted player. Its replies serve as demonstrations for training.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

# The cause of an error: the policy's reply, the server or its infrastructure, or the client's request.
Blame = Literal["policy", "infra", "client"]
Operation = Literal["reset", "step", "state", "close"]

LARGEST_INDEX = 2**63 - 1  # largest task index, seed or step index: the largest signed 64-bit integer
Index = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_INDEX)]
EPISODE_ID_CHARS = 255  # OpenEnv's limit
EpisodeId = Annotated[str, msgspec.Meta(max_length=EPISODE_ID_CHARS)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class Ignored(msgspec.Struct, frozen=True, gc=False):
    """A JSON object with any content. The decoder ignores the content."""


class Action(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A player's reply. `text`: a model's full reply, or only the action. OpenEnv's field `metadata` is ignored."""

    text: str
    metadata: Ignored = Ignored()


class Image(msgspec.Struct, gc=False):
    """An image of the state: either as base64 in `data`, or at the address `url`. `width`, `height`: in pixels."""

    mime: str
    sha256: str
    width: int
    height: int
    data: str | None = None
    url: str | None = None


class Observation(msgspec.Struct, gc=False):
    """The state as the player sees it after a reset or a step.

    `text`: the current observation, without history. `prompt`: the user message for a player that keeps no earlier
    turns. It contains the history and follows the environment's template. `message`: the next user message for a player
    that keeps all turns; None if the environment is not a conversation. `admissible_actions`: actions that work in this
    state; None if any text is allowed. For actions with free text, such as a search, the list has at most one example.
    `action_valid`, `format_valid`: whether the last reply's action and format were valid; True after a reset. `step`:
    the number of steps so far. `remaining_steps`: the number of steps until truncation.
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
    """Data for training and scoring. Do not show it to the player.

    `state_key`: hash of task and simulator state, without the step counter. `observation_key`: hash of task and
    observation text. `score`: progress on the task, in [0, 1]. `action`: the action parsed from the reply, or "" if the
    reply has no action. `content_key`: hash of the task's content, which does not depend on the task's index.
    `optimal_moves`: number of moves in the shortest solution from the start, None if unknown. `kind`: the task's kind
    if the environment has several kinds, else "". `no_action`: True if the last reply contained no action. In TIR Math,
    an action is a program or an answer.
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
    """The result of a reset or a step. `reward` is None after a reset. `done`: whether the episode is over."""

    observation: Observation
    reward: float | None
    done: bool
    metadata: Metadata | None = None


class ResetSpec(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Selects a task, either by `task_id`, or by `split` (default: train) and `index`.

    `seed`: the episode's random seed. If `task_id` and `index` are missing, `seed` is also the index. `episode_id`: a
    label for the episode. `GET /state` returns this label.
    """

    seed: Index | None = None
    split: str | None = None
    index: Index | None = None
    task_id: str | None = None
    episode_id: EpisodeId | None = None


class ResetRequest(ResetSpec, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /reset`. Without `session_id`, the server deletes the episode after it has sent the first observation."""

    session_id: str | None = None


class StepRequest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /step`. Without `session_id`, the server starts an episode of the default task and takes the first step.

    `step_index`: the number of steps that the episode has already taken (see `BatchItem`).
    """

    action: Action
    session_id: str | None = None
    step_index: Index | None = None
    timeout_s: Seconds | None = None
    request_id: str | None = None


class State(msgspec.Struct):
    """`GET /state`: the state of an episode.

    Before a reset, `step_count` is 0, and all other fields except `session_id` are None.
    """

    episode_id: str | None = None
    step_count: int = 0
    session_id: str | None = None
    task_id: str | None = None
    done: bool | None = None


class CreateSessions(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /v1/sessions`: creates `count` sessions. If the server cannot create all of them, it creates none.

    `reset`: either an empty list (no reset), or one reset for all sessions, or one reset for each session. `ttl_s`:
    a session ends after this number of idle seconds. `group_id`: a label for the sessions. Replies contain this label.
    """

    count: Annotated[int, msgspec.Meta(ge=1)] = 1
    reset: list[ResetSpec] = []
    group_id: str | None = None
    ttl_s: Seconds | None = None


class OpenedSession(msgspec.Struct, omit_defaults=True):
    """A session. `lease_expires_at`: Unix time at which the session expires if no further request arrives.

    `result`: the current state of the episode, if the request reset, copied or restored an episode; else None.
    """

    session_id: str
    lease_expires_at: float
    group_id: str | None = None
    task_id: str | None = None
    step_count: int = 0
    result: StepResult | None = None


class SessionList(msgspec.Struct):
    """Sessions in the order of their creation."""

    sessions: list[OpenedSession]


class SessionLease(msgspec.Struct):
    """Reply of `POST /v1/sessions/{id}/heartbeat`. `lease_expires_at`: Unix time at which the session expires."""

    session_id: str
    lease_expires_at: float


class ForkRequest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /v1/sessions/{id}/fork`: creates `count` sessions, each with a copy of this session's state.

    If the server cannot create all of them, it creates none. For `group_id` and `ttl_s`, see `CreateSessions`.
    """

    count: Annotated[int, msgspec.Meta(ge=1)] = 1
    group_id: str | None = None
    ttl_s: Seconds | None = None


class Snapshot(msgspec.Struct):
    """Reply of `POST /v1/sessions/{id}/snapshot`: a saved state.

    `expires_at`: Unix time at which the server deletes the snapshot. Each restore postpones this time.
    """

    snapshot_id: str
    expires_at: float
    task_id: str
    step_count: int


class RestoreRequest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /v1/snapshots/{id}/restore`: replaces the state of the session `session_id` with the saved state.

    Without `session_id`, the server opens a new session with the saved state.
    """

    session_id: str | None = None
    group_id: str | None = None
    ttl_s: Seconds | None = None


class BatchItem(ResetSpec, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, gc=False):
    """One operation of a batch. The fields of `ResetSpec` are for `reset`. `action` and `step_index` are for `step`.

    `step_index` must equal the session's step count. If the reply to a step is lost, the client can send the step
    again: if `step_index` and `action` equal those of the most recent step, the server only repeats its reply.
    """

    session_id: str
    op: Operation
    action: Action | None = None
    step_index: Index | None = None
    request_id: str | None = None


class BatchRequest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /v1/batch`. Items of one session are executed in order. `deadline_s`: time limit for all items together."""

    items: list[BatchItem]
    deadline_s: Seconds | None = None


class Error(msgspec.Struct):
    """An error. `blame`: who caused it (see `Blame`). `retryable`: whether a retry can succeed."""

    code: str
    message: str
    blame: Blame
    retryable: bool


class ErrorReply(Error):
    """The body of each HTTP error. `detail`: the same message in the form that OpenEnv's clients expect."""

    detail: list[dict[str, Any]] = []


class BatchResult(msgspec.Struct, gc=False):
    """The result of one item of a batch. If `ok` is False, only `error` is set.

    For the operations `reset` and `step`, the fields of a `StepResult` are set. For `state`, the field `state` is set.
    """

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
    """Reply of `POST /v1/batch`: one result for each item, in the order of the items."""

    results: list[BatchResult]


class ExpertReply(msgspec.Struct):
    """`text`: the expert's next reply. `plan`: the expert's replies from the next reply to the end of the episode."""

    text: str
    plan: list[str]


class Split(msgspec.Struct):
    """A named set of tasks. `size`: the number of tasks, or None if each index is valid.

    `evaluation`: True if the tasks are only for evaluation. By default, the server returns no expert replies for them.
    """

    name: str
    type: Literal["train", "validation", "test"]
    size: int | None
    evaluation: bool


class Template(msgspec.Struct):
    """The prompt template of an environment. `text`: the exact text of the template."""

    name: str
    version: str
    text: str


class Parser(msgspec.Struct):
    """Describes how the environment parses replies.

    `tags`: texts that the parser searches for, such as "<action>". A policy server must not remove tags from replies,
    even if a tag is a special token of the tokenizer. The tokenizer of a tiny policy (a small new model) has one token
    for each tag. `action`: the form of a reply after the thought, with the placeholder `{action}`. A reply with an
    empty action is invalid. If `action` is "", replies are free text.
    """

    version: str
    description: str
    tags: list[str] = []
    action: str = ""


class DataSource(msgspec.Struct):
    """The source of the tasks.

    `description`: one line of text, such as "generated by this server" or "files of /data". `official`: whether
    published results use these tasks; None if this is unknown, or if there are no published results.
    """

    description: str
    official: bool | None = None


class Info(msgspec.Struct):
    """`GET /v1/info`: the description of the environment. Results are comparable only if their descriptions agree.

    `horizon`: maximum number of steps of an episode. `stop`: stop strings for samplers; the parser ignores text after a
    stop string. `data`: the source of the tasks, None if unknown. `vocabulary`: frequent parts of observations and
    replies; the tokenizer of a tiny policy (a small new model) has one token for each part. `paths`: names of the
    options that contain paths of files or folders; "tests.*" means all keys of the table `tests`.
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
    """`GET /v1/capacity`: numbers of sessions. `draining`: True if the server shuts down and refuses new sessions."""

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
