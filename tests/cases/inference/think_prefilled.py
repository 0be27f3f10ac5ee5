"""A reply that begins inside of its thought, since the chat template ends the prompt with `<think>`.

R1 distillations, Qwen3 thinking models and QwQ have such templates. Reports of the kind: huggingface/trl#6966,
huggingface/open-r1#560.
"""

from cases.case_support import check, environment, finish, session, step

REPLIES = {
    "whole": "<think>up it is</think><action>up</action>",
    "prefilled": "up it is</think><action>up</action>",
    "prefilled, with lines": "up it is\n</think>\n\n<action>up</action>",
}

with environment("sokoban") as at:
    for name, reply in REPLIES.items():
        body = step(at, session(at, index=3), reply)[1]
        check(name, (body["metadata"]["action"], body["observation"]["format_valid"]), ("up", True))
    body = step(at, session(at, index=3), "<action>up</action>")[1]
    check("no thought at all", body["observation"]["format_valid"], False)
finish()
