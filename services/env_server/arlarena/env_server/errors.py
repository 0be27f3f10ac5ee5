"""Errors of the API, each with a code, the party to blame, and whether a retry can help."""

from __future__ import annotations

from arlarena.proto.env_api import Blame, Error, ErrorReply

_BEGIN = "begin one by a reset (MCP: start_episode)"


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

    def again(self) -> ApiError:
        """A copy to raise again; a raised exception keeps its stack frames alive."""
        return ApiError(self.status, self.code, self.message, self.blame, self.retryable, self.retry_after_s)

    def item(self) -> Error:
        """The error as part of a batch reply."""
        return Error(self.code, self.message, self.blame, self.retryable)

    def reply(self) -> ErrorReply:
        """The error as an HTTP body."""
        detail = [{"loc": ["body"], "msg": self.message, "type": self.code}]
        return ErrorReply(self.code, self.message, self.blame, self.retryable, detail)


def invalid(message: str) -> ApiError:
    """The request cannot be understood, or asks for what does not exist."""
    return ApiError(422, "invalid_request", message)


def unknown_session(session_id: str) -> ApiError:
    """No such session (any more)."""
    return ApiError(
        404,
        "unknown_session",
        f"no session {session_id!r}: it was never opened on this server, was closed, or was idle for longer than its "
        "ttl_s; open another with POST /v1/sessions",
    )


def unknown_snapshot(snapshot_id: str) -> ApiError:
    """No such snapshot (any more)."""
    message = f"no snapshot {snapshot_id!r}: it was never made on this server, was deleted, or was unused for too long"
    return ApiError(404, "unknown_snapshot", message)


def unknown_frame(digest: str) -> ApiError:
    """No such frame (any more)."""
    return ApiError(404, "unknown_frame", f"no frame {digest!r}: it was never shown by this server, or long ago")


def snapshots_full(limit: int) -> ApiError:
    """No room for another snapshot."""
    message = f"all {limit} snapshots are in use: delete some, wait, or raise [environment] max_snapshots"
    return ApiError(503, "snapshots_full", message, "infra", True, 1.0)


def at_capacity(asked: int, free: int, limit: int, retry_after_s: float) -> ApiError:
    """Not enough free sessions."""
    message = f"{asked} sessions asked for, {free} of {limit} free: close some, wait, or raise [environment] capacity"
    return ApiError(503, "capacity", message, "infra", True, retry_after_s)


def client_at_limit(owner: str, asked: int, held: int, limit: int, retry_after_s: float) -> ApiError:
    """One client has all the sessions that it may have."""
    message = (
        f"{owner} holds {held} sessions and asks for {asked}, with {limit} for one client at most: close some, wait, "
        "or raise [environment] max_sessions_per_client"
    )
    return ApiError(429, "client_limit", message, "client", True, retry_after_s)


def draining() -> ApiError:
    """The server is shutting down."""
    return ApiError(503, "draining", "this server is shutting down: use another one", "infra", True, 1.0)


def not_reset(session_id: str) -> ApiError:
    """A step before the first reset."""
    return ApiError(409, "not_reset", f"session {session_id!r} has no episode yet: {_BEGIN}")


def episode_over(session_id: str, steps: int) -> ApiError:
    """A step after the end."""
    return ApiError(
        409,
        "episode_over",
        f"the episode of session {session_id!r} ended after {steps} steps: {_BEGIN}",
    )


def step_index_conflict(session_id: str, index: int, count: int) -> ApiError:
    """A step out of turn."""
    return ApiError(
        409,
        "step_index_conflict",
        f"session {session_id!r} has taken {count} steps: step_index {index} is neither the next step ({count}) nor a "
        f"repetition of the last one with the same action",
    )


def failed(message: str, retry_after_s: float) -> ApiError:
    """A dependency of the environment failed; the episode did not change."""
    return ApiError(503, "environment_failed", message, "infra", True, retry_after_s)


def invalid_result(message: str) -> ApiError:
    """The environment broke its contract, for example with a reward of NaN; the session must be reset."""
    return ApiError(500, "invalid_result", message, "infra")


def internal(what: str, error: Exception) -> ApiError:
    """An internal error of the environment or server. Its message goes only to the log: it may contain private data."""
    message = f"{what} failed: {type(error).__name__}; the server's log has the details"
    return ApiError(500, "internal", message, "infra", True)


def busy(message: str, retry_after_s: float) -> ApiError:
    """The server is overloaded; the episode did not change."""
    return ApiError(429, "busy", message, "infra", True, retry_after_s)


def timed_out(what: str, seconds: float) -> ApiError:
    """The work took longer than its limit."""
    return ApiError(504, "deadline", f"{what} took longer than {seconds:g} s", "infra", True, 1.0)
