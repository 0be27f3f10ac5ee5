"""Failures of a model's API become errors by what the caller does."""

import json
import math
from typing import Any

import pytest

pytest.importorskip("httpx2", reason="httpx2 is not installed (pip install 'arlarena-rollout[openai]')")

import httpx2

from arlarena.rollout.evaluation.models.connection import MAX_MESSAGE, ApiConnection
from arlarena.rollout.evaluation.models.errors import Denied, ModelError, Rejected, Retryable, TooLong
from arlarena.rollout.evaluation.models.failures import model_error, retry_after_s
from arlarena.rollout.evaluation.models.http import HttpFailure

SECRET = "sk-proj-abcdefghijklmnop"
CONNECTION = ApiConnection("openai/m", "m", "http://127.0.0.1:9/v1", SECRET, "OPENAI_API_KEY")


def failure(status: int, body: Any, headers: dict[str, str] | None = None) -> ModelError:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return model_error(HttpFailure(status, headers or {}, data), CONNECTION)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT", "date": "Wed, 21 Oct 2026 07:28:30 GMT"}, 0.0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 99 Oct 2026 07:28:30 GMT"}, None),
    ],
)
def test_retry_after_is_read_in_its_three_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds


def test_a_retry_after_date_without_a_date_header_counts_from_now() -> None:
    wait = retry_after_s({"retry-after": "Fri, 31 Dec 2100 00:00:00 GMT"})
    assert wait is not None
    assert math.isfinite(wait)
    assert wait > 3600


def test_googles_retry_delay_is_the_wait() -> None:
    details = [{"@type": "x"}, {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"}]
    error = failure(429, {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "x", "details": details}})
    assert isinstance(error, Retryable)
    assert error.retry_after_s == 34.5


OPENAI = {"message": "m", "type": "t", "param": None, "code": None}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, {"error": OPENAI}, Denied),
        (402, {"error": OPENAI}, Denied),
        (403, {"error": OPENAI}, Denied),
        (404, {"error": {**OPENAI, "code": "model_not_found"}}, Denied),
        (429, {"error": {**OPENAI, "code": "insufficient_quota"}}, Denied),
        (400, {"error": {"type": "invalid_request_error", "message": "Your credit balance is too low"}}, Denied),
        (400, {"error": {**OPENAI, "param": "temperature", "code": "unsupported_value"}}, Denied),
        (400, {"error": {**OPENAI, "code": "context_length_exceeded", "param": "messages"}}, TooLong),
        (400, {"error": {"message": "prompt is too long: 210000 tokens > 200000 maximum"}}, TooLong),
        (400, {"error": {"message": "The input token count (9) exceeds the maximum number of tokens (8)."}}, TooLong),
        (400, {"object": "error", "message": "This model's maximum context length is 8 tokens.", "code": 400}, TooLong),
        (400, {"error": {"message": "input length and `max_tokens` exceed context limit: 9 + 9 > 10"}}, TooLong),
        (413, {"error": {"type": "request_too_large", "message": "m"}}, TooLong),
        (422, {"detail": [{"msg": "x"}]}, Rejected),
        (400, [{"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "m"}}], Rejected),
        (307, b"", Denied),
    ],
)
def test_a_request_that_fails_again_is_not_retryable(status: int, body: Any, kind: type[ModelError]) -> None:
    assert type(failure(status, body)) is kind


@pytest.mark.parametrize(
    ("status", "charged"),
    [(408, True), (409, True), (429, False), (500, True), (502, True), (503, False), (504, True), (529, False)],
)
def test_a_temporary_failure_is_retryable_and_says_whether_it_was_possibly_charged(status: int, charged: bool) -> None:
    error = failure(status, {"error": OPENAI}, {"retry-after": "3"})
    assert isinstance(error, Retryable)
    assert (error.possibly_charged, error.retry_after_s) == (charged, 3.0)


@pytest.mark.parametrize(
    ("error", "charged"),
    [
        (httpx2.ConnectError("refused"), False),
        (httpx2.ConnectTimeout("slow"), False),
        (httpx2.PoolTimeout("full"), False),
        (httpx2.ReadTimeout("slow"), True),
        (httpx2.ReadError("reset"), True),
        (httpx2.RemoteProtocolError("closed"), True),
        (TimeoutError(), True),
        (json.JSONDecodeError("cut off", "{", 1), True),
    ],
)
def test_a_request_that_was_never_sent_is_not_charged(error: Exception, charged: bool) -> None:
    wrapped = RuntimeError("Connection error.")
    wrapped.__cause__ = error
    found = model_error(wrapped, CONNECTION)
    assert isinstance(found, Retryable)
    assert found.possibly_charged is charged


def test_an_untrusted_certificate_ends_the_evaluation() -> None:
    error = model_error(httpx2.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate"), CONNECTION)
    assert isinstance(error, Denied)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>" + b"<p>try later</p>" * 10_000,
        ("x" * 380 + SECRET + "y" * 100_000).encode(),
        json.dumps({"error": {"message": f"key {SECRET} is wrong, and so is sk-pr*****mnop", "code": SECRET}}).encode(),
        json.dumps({"error": "x" * 100_000}).encode(),
        b"[" * 200_000,
        b"",
        b"\xff\xfe\x00",
    ],
)
def test_a_message_is_short_and_has_no_key(body: bytes) -> None:
    for status in (301, 400, 401, 404, 429, 500):
        message = str(failure(status, body, {"location": f"http://evil.example/?key={SECRET}"}))
        assert message.startswith("openai/m at http://127.0.0.1:9/v1: ")
        assert len(message) <= MAX_MESSAGE
        assert "\n" not in message
        assert "<p>" not in message
        assert all(part not in message for part in (SECRET, SECRET[:12], "mnop", SECRET[3:]))


def test_the_key_is_in_no_representation() -> None:
    assert SECRET not in repr(CONNECTION)
