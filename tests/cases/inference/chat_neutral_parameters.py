"""Parameters of OpenAI's and vLLM's routes at a value that changes nothing are accepted; others are still refused."""

import json

from cases.case_support import call, check, finish, policy

NEUTRAL = {
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "logit_bias": {},
    "n": None,
    "stream": None,
    "min_tokens": None,
    "best_of": 1,
    "spaces_between_special_tokens": True,
}
CHAT = NEUTRAL | {
    "tools": [],
    "tool_choice": "none",
    "response_format": {"type": "text"},
    "parallel_tool_calls": True,
    "store": False,
}
TEXT = NEUTRAL | {"suffix": None, "logprobs": None}

with policy() as at:
    messages = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    for name, value in CHAT.items():
        status = call(at, "POST", "/v1/chat/completions", messages | {name: value})[0]
        check(f"chat {name} = {json.dumps(value)}", status, 200)
    for name, value in TEXT.items():
        status = call(at, "POST", "/v1/completions", {"prompt": "hi", "max_tokens": 2, name: value})[0]
        check(f"completions {name} = {json.dumps(value)}", status, 200)
    sampling = {"max_tokens": 2, "min_p": 0.0, "repetition_penalty": 1.0, "logit_bias": {}}
    status = call(at, "POST", "/inference/v1/generate", {"token_ids": [1, 2], "sampling_params": sampling})[0]
    check("token route, the same", status, 200)
    status = call(at, "POST", "/v1/chat/completions", messages | {"min_p": 0.1})[0]
    check("chat min_p = 0.1 is still refused", status, 400)
finish()
