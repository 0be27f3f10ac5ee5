"""Errors of the API. Each error has a code, the side that caused the error (`blame`), and whether a retry can help
(`retryable`). The functions of this module return errors. Their callers raise the errors.
"""

from __future__ import annotations

from arlarena.proto.env_api import Blame, Error, ErrorReply

_BEGIN = "begin an episode with a reset (MCP: start_episode)"


class ApiError(Exception):
    """An error that goes to the caller as `{code, message, blame, retryable}` with an HTTP status.

    `retry_after_s` becomes the header Retry-After.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        blame: Blame = "client",
        retryable: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.blame = blame
        self.retryable = retryable
        self.retry_after_s = retry_after_s

    def copy(self) -> ApiError:
        """Returns a copy for storage. An exception that was raised would keep its stack frames in memory."""
        return ApiError(self.status, self.code, self.message, self.blame, self.retryable, self.retry_after_s)

    def to_item(self) -> Error:
        """Returns the error as the error of one item in a batch reply."""
        return Error(self.code, self.message, self.blame, self.retryable)

    def to_reply(self) -> ErrorReply:
        """Returns the error as the body of an HTTP reply."""
        detail = [{"loc": ["body"], "msg": self.message, "type": self.code}]
        return ErrorReply(self.code, self.message, self.blame, self.retryable, detail)


def invalid(message: str) -> ApiError:
    """Returns the error for a request that is invalid or names something that does not exist."""
    return ApiError(422, "invalid_request", message)


def unknown_session(session_id: str) -> ApiError:
    """Returns the error for a session that does not exist or has ended."""
    return ApiError(
        404,
        "unknown_session",
        f"no session {session_id!r}: it was never opened on this server, was closed, or was idle for longer than its "
        "ttl_s; open another with POST /v1/sessions",
    )


def unknown_snapshot(snapshot_id: str) -> ApiError:
    """Returns the error for a snapshot that does not exist or was deleted."""
    message = f"no snapshot {snapshot_id!r}: it was never made on this server, was deleted, or was unused for too long"
    return ApiError(404, "unknown_snapshot", message)


def unknown_frame(digest: str) -> ApiError:
    """Returns the error for a frame (an image) that is not stored or was never shown to the client."""
    return ApiError(404, "unknown_frame", f"no frame {digest!r}: it was never shown to this client, or was deleted")


def snapshots_full(limit: int) -> ApiError:
    """Returns the error for a new snapshot while the store of snapshots is full."""
    message = f"all {limit} snapshots are in use: delete some, wait, or raise [environment] max_snapshots"
    return ApiError(503, "snapshots_full", message, "infra", True, 1.0)


def at_capacity(asked: int, free: int, limit: int, retry_after_s: float) -> ApiError:
    """Returns the error for new sessions while the server is full."""
    message = f"{asked} sessions requested, {free} of {limit} free: close some, wait, or raise [environment] capacity"
    return ApiError(503, "capacity", message, "infra", True, retry_after_s)


def client_at_limit(client: str, asked: int, held: int, limit: int, retry_after_s: float) -> ApiError:
    """Returns the error for a client that would exceed its limit of sessions."""
    message = (
        f"{client} has {held} sessions and requests {asked} more, but the limit per client is {limit}: close some, "
        "wait, or raise [environment] max_sessions_per_client"
    )
    return ApiError(429, "client_limit", message, "client", True, retry_after_s)


def draining() -> ApiError:
    """Returns the error for new sessions while the server is shutting down."""
    return ApiError(503, "draining", "this server is shutting down: use another server", "infra", True, 1.0)


def not_reset(session_id: str) -> ApiError:
    """Returns the error for a session that has no episode, because it was never reset."""
    return ApiError(409, "not_reset", f"session {session_id!r} has no episode yet: {_BEGIN}")


def episode_over(session_id: str, steps: int) -> ApiError:
    """Returns the error for a step after the end of the episode."""
    return ApiError(
        409,
        "episode_over",
        f"the episode of session {session_id!r} ended after {steps} steps: {_BEGIN}",
    )


def step_index_conflict(session_id: str, index: int, count: int) -> ApiError:
    """Returns the error for a wrong `step_index`: the request is not for the next step, and does not repeat the most
    recent step with the same action. `index`: the `step_index` of the request. `count`: the number of steps taken.
    """
    return ApiError(
        409,
        "step_index_conflict",
        f"session {session_id!r} has taken {count} steps: step_index {index} is not the next step ({count}), and the "
        f"request does not repeat the last step with the same action",
    )


def failed(message: str, retry_after_s: float) -> ApiError:
    """Returns the error for a failed dependency of the environment, such as a sandbox. The episode is unchanged."""
    return ApiError(503, "environment_failed", message, "infra", True, retry_after_s)


def invalid_result(message: str) -> ApiError:
    """Returns the error for an invalid result of the environment, such as a reward of NaN. The client must reset the
    session.
    """
    return ApiError(500, "invalid_result", message, "infra")


def internal(operation: str, error: Exception) -> ApiError:
    """Returns the error for an unexpected exception. The reply omits the exception's message, because the message may
    contain private data.
    """
    message = f"{operation} failed: {type(error).__name__}; the server's log has the details"
    return ApiError(500, "internal", message, "infra", True)


def busy(message: str, retry_after_s: float) -> ApiError:
    """Returns the error for an overloaded server or dependency. The episode is unchanged."""
    return ApiError(429, "busy", message, "infra", True, retry_after_s)


def timed_out(operation: str, seconds: float) -> ApiError:
    """Returns the error for work that took longer than its time limit."""
    return ApiError(504, "deadline", f"{operation} took longer than {seconds:g} s", "infra", True, 1.0)
