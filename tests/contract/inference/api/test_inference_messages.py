"""Messages of a chat: roles and content as in OpenAI's API; each error names the field."""

import pytest
from support.inference.inference_support import openai_error, tokenizer

CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "a"}
CALL = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


def refusal(server, messages, route=CHAT):
    answer = server.http.post(route, {"messages": messages})
    assert answer.status_code == 400, answer.text
    return openai_error(answer)


def prompt(server, messages):
    body = {"messages": messages, "max_tokens": 1, "return_token_ids": True}
    return tokenizer().decode(server.post(CHAT, body)["prompt_token_ids"])


@pytest.mark.parametrize("route", [CHAT, "/tokenize"])
@pytest.mark.parametrize("role", ["wizard", "User", "", " user", None, 5, ["user"], {"role": "user"}])
def test_an_unknown_role_is_refused_and_the_known_ones_are_listed(server, route, role):
    error = refusal(server, [USER, {"role": role, "content": "x"}], route)
    assert error["param"] == "messages[1].role"
    for word in ("messages[1].role", "system, developer, user, assistant, tool, function"):
        assert word in error["message"]


def test_a_missing_role_is_refused(server):
    error = refusal(server, [{"content": "x"}])
    assert error["param"] == "messages[0].role"
    assert "missing" in error["message"]


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool", "function"])
def test_every_role_of_openai_needs_content(server, role):
    assert prompt(server, [{"role": role, "content": "b"}]).count("b") == 1
    assert prompt(server, [USER, {"role": role, "content": ""}])
    for message, word in (({"role": role}, "missing"), ({"role": role, "content": None}, "null")):
        error = refusal(server, [USER, message])
        assert error["param"] == "messages[1].content"
        assert word in error["message"]


@pytest.mark.parametrize(
    "instead", [{"tool_calls": CALL}, {"function_call": {"name": "f", "arguments": ""}}, {"refusal": "I cannot."}]
)
def test_an_assistants_message_with_calls_or_a_refusal_needs_no_content(server, instead):
    for message in ({"role": "assistant", **instead}, {"role": "assistant", "content": None, **instead}):
        assert prompt(server, [USER, message, {"role": "tool", "tool_call_id": "1", "content": "3"}])


def test_a_users_message_with_calls_and_an_assistants_with_none_need_content(server):
    assert refusal(server, [{"role": "user", "tool_calls": CALL}])["param"] == "messages[0].content"
    assert refusal(server, [{"role": "assistant", "tool_calls": []}])["param"] == "messages[0].content"


@pytest.mark.parametrize("content", [0, 5, False, True, {}, {"text": "x"}, []])
def test_content_that_is_not_text_is_refused(server, content):
    error = refusal(server, [{"role": "user", "content": content}])
    assert error["param"] == "messages[0].content"
    assert "must be text" in error["message"]


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9000}}, "type"),
        ({"type": "input_audio", "input_audio": {}}, "type"),
        ({"text": "x"}, "type"),
        ("x", "type"),
        (None, "type"),
        ({"type": "text"}, "text"),
        ({"type": "text", "text": None}, "text"),
        ({"type": "text", "text": 5}, "text"),
    ],
)
def test_a_content_part_that_is_not_text_is_refused_with_its_index(server, part, field):
    error = refusal(server, [USER, {"role": "user", "content": [{"type": "text", "text": "x"}, part]}])
    assert error["param"] == f"messages[1].content[1].{field}"
    assert len(error["message"]) < 400


@pytest.mark.parametrize("depth", [500, 900, 950, 970, 980, 990, 995])
def test_deeply_nested_content_is_400(server, depth):
    for begin, end in (("[", "]"), ('{"a":', "}")):
        content = begin * depth + "1" + end * depth
        answer = server.http.post(CHAT, data=f'{{"messages": [{{"role": "user", "content": {content}}}]}}'.encode())
        assert answer.status_code == 400, depth
        assert len(openai_error(answer)["message"]) < 400


@pytest.mark.parametrize("messages", [[], ["hi"], [[]], [None], "hi", {"role": "user", "content": "x"}, None])
def test_messages_that_are_not_a_list_are_refused(server, messages):
    assert refusal(server, messages)["param"].startswith("messages")


# --- options of the template ---


@pytest.mark.parametrize(
    "name", ["messages", "conversation", "tokenize", "chat_template", "return_dict", "padding", "add_generation_prompt"]
)
def test_an_option_that_is_not_a_template_variable_is_refused(server, name):
    """The names are parameters of transformers' `apply_chat_template`, or fields of the request."""
    answer = server.http.post(CHAT, {"messages": [USER], "chat_template_kwargs": {name: True}})
    assert (answer.status_code, openai_error(answer)["param"]) == (400, f"chat_template_kwargs.{name}")


def test_an_unused_template_variable_has_no_effect(server):
    body = {"messages": [USER], "max_tokens": 3, "seed": 1}
    options = {"enable_thinking": False, "documents": []}
    with_options = server.post(CHAT, {**body, "chat_template_kwargs": options})
    assert with_options["choices"] == server.post(CHAT, body)["choices"]


# --- values that vLLM accepts and OpenAI's API does not ---


def test_temperatures_above_2_and_more_than_4_stop_strings_are_accepted_as_in_vllm(server):
    body = {"messages": [USER], "max_tokens": 20, "seed": 1, "ignore_eos": True}
    hot = server.post(CHAT, {**body, "temperature": 2.5})["choices"]
    assert hot != server.post(CHAT, {**body, "temperature": 1.0})["choices"]
    whole = hot[0]["message"]["content"]
    stops = ["@", "#", "$", "%", "&", whole[3]]
    ended = server.post(CHAT, {**body, "temperature": 2.5, "stop": stops})["choices"][0]
    assert ended["message"]["content"] == whole[: whole.index(whole[3])]


@pytest.mark.parametrize(("name", "value"), [("temperature", -0.1), ("top_p", -0.1), ("top_p", 1.1), ("top_p", 0)])
def test_values_out_of_both_ranges_are_refused_by_name(server, name, value):
    answer = server.http.post(CHAT, {"messages": [USER], name: value})
    assert (answer.status_code, openai_error(answer)["param"]) == (400, name)
