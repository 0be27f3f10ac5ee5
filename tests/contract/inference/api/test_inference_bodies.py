"""Bodies that cannot be read: the error names the cause, the field and the fix."""

import gzip

import pytest
from support.inference.inference_support import openai_error

CHAT, COMPLETIONS, GENERATE = "/v1/chat/completions", "/v1/completions", "/inference/v1/generate"
USER = b'{"messages": [{"role": "user", "content": "x"}], '


def refusal(server, route, data, headers=None, status=400):
    answer = server.http.post(route, data=data, headers=headers)
    assert answer.status_code == status, answer.text
    return openai_error(answer)


UNDECODABLE = [
    ('{"prompt": "café"}'.encode("latin-1"), "byte 0xe9 at offset 15", "encode it as UTF-8"),
    (b'{"prompt": "\xed\xa0\x80"}', "byte 0xed at offset 12", "encode it as UTF-8"),
    (b'\xef\xbb\xbf{"prompt": "x"}', "byte-order mark", "send UTF-8 without this mark"),
    ('{"prompt": "x"}'.encode("utf-16"), "UTF-16", "encode it as UTF-8"),
    ('{"prompt": "x"}'.encode("utf-16-be"), "UTF-16", "encode it as UTF-8"),
    ('{"prompt": "x"}'.encode("utf-32-le"), "UTF-32", "encode it as UTF-8"),
    # No timestamp: all test processes must give the case the same id.
    (gzip.compress(b'{"prompt": "x"}', mtime=0), "compressed with gzip", "send it uncompressed"),
    (b"", "empty", "send a JSON object"),
    (b" \n", "empty", "send a JSON object"),
    (b'{"prompt": "x",}', "not valid JSON", "char 15"),
    (b'{"prompt": "x"', "not valid JSON", "char 14"),
    (b"prompt=x", "not valid JSON", "char 0"),
]


@pytest.mark.parametrize("route", [CHAT, COMPLETIONS, GENERATE, "/tokenize"])
@pytest.mark.parametrize(("data", "cause", "fix"), UNDECODABLE)
def test_the_message_names_why_a_body_is_not_json_and_what_to_send(server, route, data, cause, fix):
    error = refusal(server, route, data)
    assert (error["code"], error["param"]) == ("invalid_json", None)
    assert cause in error["message"]
    assert fix in error["message"]


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "GZIP"])
def test_a_content_encoding_is_refused_by_name(server, coding):
    error = refusal(server, CHAT, gzip.compress(USER), {"Content-Encoding": coding}, 415)
    assert error["code"] == "unsupported_content_encoding"
    assert repr(coding.lower()) in error["message"]
    assert "uncompressed" in error["message"]


def test_content_encoding_identity_is_accepted(server):
    answer = server.http.post(CHAT, data=USER + b'"max_tokens": 1}', headers={"Content-Encoding": "identity"})
    assert answer.status_code == 200


VALUES = [
    (b'"temperature": NaN}', "temperature", "is NaN"),
    (b'"temperature": Infinity}', "temperature", "is Infinity"),
    (b'"top_p": -Infinity}', "top_p", "is -Infinity"),
    (b'"temperature": 1e999}', "temperature", "1e999, outside the range of floats"),
    (b'"temperature": -1e999}', "temperature", "-1e999, outside the range of floats"),
    (b'"temperature": 1' + b"0" * 400 + b"}", "temperature", "out of range"),
    (b'"seed": ' + b"9" * 5000 + b"}", "seed", "integer of 5000 digits"),
    (b'"seed": ' + b"9" * 4000 + b"}", "seed", "must be from"),
    (b'"seed": -' + b"9" * 5000 + b"}", "seed", "integer of 5000 digits"),
    (b'"seed": 1' + b"0" * 5000 + b".5}", "seed", "outside the range of floats"),
    (b'"stop": ["a", "\\ud800"]}', "stop[1]", "\\ud800, one half of a surrogate pair"),
    (b'"stop": "\\ude00\\ud83d"}', "stop", "\\ude00, one half of a surrogate pair"),
    (b'"metadata": {"a": {"b": [1, NaN]}}}', "metadata.a.b[1]", "is NaN"),
    (b'"stop_token_ids": [1, 1e999]}', "stop_token_ids[1]", "1e999"),
]


@pytest.mark.parametrize(("rest", "param", "why"), VALUES)
def test_a_value_that_cannot_be_read_is_refused_with_its_field(server, rest, param, why):
    for route, begin in ((CHAT, USER), (COMPLETIONS, b'{"prompt": "x", ')):
        error = refusal(server, route, begin + rest)
        assert error["param"] == param
        assert why in error["message"]
        assert len(error["message"]) < 300
    nested = refusal(server, GENERATE, b'{"token_ids": [5], "sampling_params": {' + rest + b"}")
    assert nested["param"] == param


def test_half_a_surrogate_pair_in_a_message_is_refused_with_its_field(server):
    data = b'{"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": [{"text": "a\\ud83d"}]}]}'
    assert refusal(server, CHAT, data)["param"] == "messages[1].content[0].text"
    whole = b'{"messages": [{"role": "user", "content": "\\ud83d\\ude00"}], "max_tokens": 1}'
    assert server.http.post(CHAT, data=whole).status_code == 200
    assert "name" in refusal(server, CHAT, b'{"\\ud83d": 1}')["message"]


@pytest.mark.parametrize("value", ["1e308", "-1e308", "1e-320"])
@pytest.mark.parametrize(
    "name", ["temperature", "top_p", "top_k", "n", "seed", "max_tokens", "stop", "logprobs", "model"]
)
def test_extreme_floats_are_accepted_or_400(server, name, value):
    answer = server.http.post(COMPLETIONS, data=f'{{"prompt": "x", "{name}": {value}}}'.encode())
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 400:
        assert openai_error(answer)["param"] == name


@pytest.mark.parametrize("value", [2**31 + 1, 2**63, 10**300])
def test_integers_of_any_size_are_out_of_range_not_errors(server, value):
    assert server.generate([5], max_tokens=value, seed=1) == server.generate([5], seed=1)
    assert server.generate([5], max_tokens=3, top_k=value, seed=1) == server.generate([5], max_tokens=3, seed=1)
    body = {"prompt": [5], "max_tokens": value}
    assert len(server.refused(COMPLETIONS, body, 400)) < 400
    for name in ("n", "seed", "logprobs"):
        if value > 2**63:
            assert name in server.refused(COMPLETIONS, {"prompt": [5], name: value}, 400)
