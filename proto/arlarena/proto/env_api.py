"""The environment API on the wire: OpenEnv's routes and frames, and what training needs under /v1.

    POST /v1/sessions   CreateSessions -> SessionList        POST /reset  ResetRequest -> StepResult
    POST /v1/batch      BatchRequest   -> BatchReply         POST /step   StepRequest  -> StepResult

Requests refuse unknown fields, so that a misspelt key is an error and never ignored. Replies may gain fields. What
there are thousands of is `gc=False`: it holds no cycles, and the garbage collector need not walk through it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

Blame = Literal["policy", "infra", "client"]
Operation = Literal["reset", "step", "state", "close"]

LARGEST_INDEX = 2**63 - 1  # of a task, a seed or a step: what 64 bits hold
Index = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_INDEX)]
EPISODE_ID_CHARS = 255  # OpenEnv's bound
EpisodeId = Annotated[str, msgspec.Meta(max_length=EPISODE_ID_CHARS)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class Ignored(msgspec.Struct, frozen=True, gc=False):
    """An object of any content that is not read: none of its values is made."""


class Action(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """What a player says: a model's whole reply, or a bare action. `metadata` is OpenEnv's, and is not read."""

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
    """What a player sees after a reset or a step.

    `text`: the present observation, without history. `prompt`: the user message of the environment's own template,
    history included, for players that keep no conversation. `message`: what the environment says next in a
    conversation that keeps every turn (the problem, then each tool's result); None where each prompt stands for itself.
    `admissible_actions`: None where any text is allowed. `action_valid`, `format_valid`: marks of the reply that led
    here, True after a reset. `step`: steps taken; `remaining_steps`: steps left until truncation.
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
    """What a trainer needs and no prompt may hold.

    `state_key`: hash of task and simulator state, without counters. `observation_key`: hash of task and observation
    text. `score`: in [0, 1]. `action`: the action read from the reply, "" if none. `content_key`: hash of the task's
    content, however it is indexed. `optimal_moves`: length of the shortest solution at the start, where it is known.
    `kind`: the kind of task, where an environment has several, "" otherwise. `no_action`: the step just taken did
    nothing, as a reply without code and without an answer.
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
    """The answer to a reset (`reward` None) or a step. `done` is terminated or truncated."""

    observation: Observation
    reward: float | None
    done: bool
    metadata: Metadata | None = None


class ResetSpec(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Which task: `task_id`, or `split` + `index`, or `seed` alone, which is an index of the split (default train)."""

    seed: Index | None = None
    split: str | None = None
    index: Index | None = None
    task_id: str | None = None
    episode_id: EpisodeId | None = None


class ResetRequest(ResetSpec, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /reset`. Without `session_id` nothing is kept."""

    session_id: str | None = None


class StepRequest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /step`. Without `session_id` it is the first step of a fresh episode. For `step_index` see `BatchItem`."""

    action: Action
    session_id: str | None = None
    step_index: Index | None = None
    timeout_s: Seconds | None = None
    request_id: str | None = None


class State(msgspec.Struct):
    """`GET /state`: where an episode stands. All but `step_count` is None where there is none."""

    episode_id: str | None = None
    step_count: int = 0
    session_id: str | None = None
    task_id: str | None = None
    done: bool | None = None


class CreateSessions(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /v1/sessions`: `count` sessions or none. `reset`: none, one for all, or one each. `ttl_s`: idle seconds."""

    count: Annotated[int, msgspec.Meta(ge=1)] = 1
    reset: list[ResetSpec] = []
    group_id: str | None = None
    ttl_s: Seconds | None = None


class OpenedSession(msgspec.Struct, omit_defaults=True):
    """A session. `lease_expires_at`: Unix seconds when it ends if nobody touches it."""

    session_id: str
    lease_expires_at: float
    group_id: str | None = None
    task_id: str | None = None
    step_count: int = 0
    result: StepResult | None = None


class SessionList(msgspec.Struct):
    """Sessions, in the order of their making."""

    sessions: list[OpenedSession]


class Lease(msgspec.Struct):
    """`POST /v1/sessions/{id}/heartbeat`: until when the session now lives, in Unix seconds."""

    session_id: str
    lease_expires_at: float


class ForkRequest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /v1/sessions/{id}/fork`: `count` new sessions in the state of this one, or none."""

    count: Annotated[int, msgspec.Meta(ge=1)] = 1
    group_id: str | None = None
    ttl_s: Seconds | None = None


class Snapshot(msgspec.Struct):
    """`POST /v1/sessions/{id}/snapshot`: a state that can be gone back to. `expires_at`: Unix seconds, if unused."""

    snapshot_id: str
    expires_at: float
    task_id: str
    step_count: int


class RestoreRequest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /v1/snapshots/{id}/restore`: into a session, or into a new one where none is named."""

    session_id: str | None = None
    group_id: str | None = None
    ttl_s: Seconds | None = None


class BatchItem(ResetSpec, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, gc=False):
    """One operation of a batch. The fields of `ResetSpec` belong to `reset`, `action` and `step_index` to `step`.

    `step_index` must equal the session's step count. If it is that of the last step, with the same action, the earlier
    reply is given again and nothing moves, so that a request whose answer was lost can be repeated.
    """

    session_id: str
    op: Operation
    action: Action | None = None
    step_index: Index | None = None
    request_id: str | None = None


class BatchRequest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /v1/batch`. Items of one session are carried out in order. `deadline_s`: for all of them together."""

    items: list[BatchItem]
    deadline_s: Seconds | None = None


class Error(msgspec.Struct):
    """What went wrong, whose fault it is, and whether the same request may succeed later."""

    code: str
    message: str
    blame: Blame
    retryable: bool


class ErrorReply(Error):
    """The body of every HTTP error. `detail` repeats the message in the shape that OpenEnv's clients read."""

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
    """`text`: the expert's next reply. `plan`: this one and all that follow to the end of the episode."""

    text: str
    plan: list[str]


class Split(msgspec.Struct):
    """A set of tasks. `size` None: any index is valid. `evaluation`: held out, no expert by default."""

    name: str
    type: Literal["train", "validation", "test"]
    size: int | None
    evaluation: bool


class Template(msgspec.Struct):
    """The prompt's template, word for word."""

    name: str
    version: str
    text: str


class Parser(msgspec.Struct):
    """How replies are read: the version and a description.

    `tags`: texts with a meaning in a reply, such as "<action>". They are text even where a tokenizer has them as
    special tokens, and one token each in a tiny policy. `action`: how a reply says an action, after the thought;
    `{action}` stands for it. With an empty action, the reply cannot be read. "": replies are free text.
    """

    version: str
    description: str
    tags: list[str] = []
    action: str = ""


class DataSource(msgspec.Struct):
    """Where the tasks come from. `description`: one line to show, such as "made by this server" or "files of /data".
    `official`: whether they are the data set that published results are about; None where that cannot be told, or
    where there is no such data set.
    """

    description: str
    official: bool | None = None


class Info(msgspec.Struct):
    """`GET /v1/info`: what is being played, completely enough to tell whether two results can be compared.

    `stop`: texts after which a reply is over, for those who sample it: what follows them is not read. `data`: where
    the tasks come from, None where the environment does not say. `vocabulary`: frequent parts of observations and
    replies, one token each in a tiny policy. `paths`: names of the options that are paths of files or folders; in
    "tests.*", the star stands for each key of the table `tests`.
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
    """`GET /health` and `/ready`. `details`: how it is with what the environment stands on, where it needs more than
    its process: the sandbox and its layers.
    """

    status: Literal["healthy", "unhealthy", "degraded", "ready", "draining"]
    details: dict[str, Any] | None = None
