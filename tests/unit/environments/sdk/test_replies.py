"""The action in a reply, for the formats of several models, and the strict format."""

import re
import time
from pathlib import Path

import pytest

from arlarena.environment.replies import after_thought, parse

GUIDE = Path(__file__).resolve().parents[4] / "docs" / "reference" / "environments.md"
ACTIONS = ("up", "down", "left", "right", "still")
UP = "<action>up</action>"


@pytest.mark.parametrize(
    ("text", "action", "strict"),
    [
        ("<think>push left</think><action>up</action>", "up", True),
        ("<think></think><action>still</action>", "still", True),
        ("  <think>a\nb</think>\n<action> Left </action>\n", "left", True),
        ("<think>x</think><action>jump</action>", None, True),
        ("<think>x</think><action></action>", None, True),
        ("<action>up</action>", "up", False),
        ("sure! <action>down</action>", "down", False),
        ("<think>x</think><action>up</action> done", "up", False),
        ("<think>x</think>and<action>up</action>", "up", False),
        ("<think>x</think><action>up</action><action>up</action>", None, False),
        ("<think>x</think><action>up", None, False),
        ("<think>x</think>up", "up", False),
        ("<action>up</action></action>", None, False),
        ("<action><action>up</action>", None, False),
        ("</action>up<action>", None, False),
        ("up", "up", False),
        (" RIGHT\n", "right", False),
        ("go up", None, False),
        ("", None, False),
        ("\x00\ud7ff<", None, False),
        # Other spellings of the tags are read, but are not the strict format.
        ("<ACTION>up</ACTION>", "up", False),
        ("<think>x</think>< action >up</ action >", "up", False),
        ('<think>x</think><action type="move">up</action>', "up", False),
        ("<Think>x</Think><action>up</action>", "up", False),
        ('<think effort="low">x</think><action>up</action>', "up", False),
        ("<think>x</think ><action>up</action>", "up", False),
        ("<think/><action>up</action>", "up", False),
        ("<actions>up</actions>", None, False),
    ],
)
def test_the_action_and_the_strict_format_are_read(text, action, strict):
    reply = parse(text, ACTIONS)
    assert (reply.action, reply.action_valid, reply.format_valid) == (action, action is not None, strict)


@pytest.mark.parametrize(
    ("text", "action", "strict"),
    [
        (f"up it is</think>{UP}", "up", True),
        (f"up it is\n</think>\n\n{UP}\n", "up", True),
        (f"</think>{UP}", "up", True),
        (f"I will write <action>down</action>.</think>{UP}", "up", True),
        (f"I will close with </think>, so:</think>{UP}", "up", False),
        (f"no <think> again</think>{UP}", "up", False),
        (f"no <thinking> tags, no [THINK]</think>{UP}", "up", True),
        (f"a</think>b{UP}", "up", False),
        (f"a {UP}</think>", None, False),
    ],
)
def test_a_thought_opened_by_the_chat_template_is_a_thought(text, action, strict):
    reply = parse(text, ACTIONS)
    assert (reply.action, reply.format_valid) == (action, strict)


@pytest.mark.parametrize(
    ("text", "action", "strict"),
    [
        (f"<think>first <action>down</action>, no: <action>left</action></think>{UP}", "up", True),
        (f"<think>the form is <action>, then </action></think>{UP}", "up", True),
        (f"<think>I must not write [/THINK] or </thinking></think>{UP}", "up", True),
        (f"<think>a <think> in it</think>{UP}", "up", False),
        (f"<think>x</think><think>y</think>{UP}", "up", False),
        (f"<think>x</think>y</think>{UP}", "up", False),
        (f"let me see <think>x</think>{UP}", "up", False),
        ("<think><action>up</action></think>", None, False),
        ("<action>up</action><think>x</think>", None, False),
    ],
)
def test_an_action_within_the_thought_is_ignored(text, action, strict):
    reply = parse(text, ACTIONS)
    assert (reply.action, reply.format_valid) == (action, strict)


@pytest.mark.parametrize(
    "opening",
    ["<think>", "<THINK>", "< think >", '<think effort="high">', "<thinking>", "<thought>", "<reasoning>",
     "<|begin_of_thought|>", "<|channel|>analysis<|message|>", "[THINK]", "◁think▷"],
)  # fmt: skip
def test_a_reply_with_an_unclosed_thought_is_unreadable(opening):
    for text in (f"{opening}x{UP}", f"{opening}x {UP} and then", f"{UP}{opening}", f"a</think>b{opening}{UP}"):
        reply = parse(text, ACTIONS)
        assert (reply.action, reply.format_valid) == (None, False)
        assert after_thought(text) is None


@pytest.mark.parametrize(
    "thought",
    [
        "<thinking>{}</thinking>",
        "<Thought>{}</thought>",
        "<reasoning>{}</reasoning>",
        "<|begin_of_thought|>{}<|end_of_thought|>",
        "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>",
        "[THINK]{}[/THINK]",
        "◁think▷{}◁/think▷",
        "{}<|end_of_thought|>",
        "{}[/THINK]",
    ],
)
def test_thoughts_of_other_models_are_read_but_not_strict_format(thought):
    reply = parse(thought.format("<action>down</action>") + UP, ACTIONS)
    assert (reply.action, reply.format_valid) == ("up", False)
    assert after_thought(thought.format("x") + UP) == UP


@pytest.mark.parametrize("end", ["<|im_end|>", "</s>", "<|eot_id|>\n", "\n<|im_end|>\n<|endoftext|>", "<end_of_turn>"])
def test_end_of_turn_tokens_are_not_part_of_a_reply(end):
    assert parse(f"<think>x</think>{UP}{end}", ACTIONS).format_valid
    assert parse(f"up{end}", ACTIONS).action == "up"
    assert not parse(f"<think>x</think>{UP}{end}more", ACTIONS).format_valid


def test_without_known_actions_the_text_after_the_thought_is_the_action():
    assert parse("<think>50 or 75</think><action> 75 </action>").action == "75"
    assert parse("50 or 75?</think>75").action == "75"
    assert parse("75").action == "75"
    assert parse("<think>75").action is None


LONG = ["<", "< ", "<think ", "<think>", "<think></think>", "a<think>b</thinking>", "[THINK]", "</s> ", "<action",
        "<action>", " ", "</think><action>", "<|channel|>analysis", "</action >"]  # fmt: skip


@pytest.mark.parametrize("part", LONG)
def test_a_reply_takes_linear_time(part):
    def taken(length):
        begun = time.process_time()
        parse("<" + part * (length // len(part)), ACTIONS)
        return time.process_time() - begun

    quarter = min(taken(100_000) for _ in range(3))
    # Four times the length takes about four times as long, not sixteen times.
    assert min(taken(400_000) for _ in range(2)) < 9 * quarter + 0.1


def documented():
    """The rows of the guide's table: reply, action played (or None), and whether the format is strict."""
    section = GUIDE.read_text(encoding="utf-8").split("### What counts as the action\n")[1].split("\n## ")[0]
    row = re.compile(r"^\| `(?P<reply>.+)` \| (?:`(?P<action>\w+)`|nothing) \| (?P<strict>yes|no) \|$", re.MULTILINE)
    found = [(match["reply"], match["action"], match["strict"] == "yes") for match in row.finditer(section)]
    assert len(found) == section.count("\n| ") - 1, "a row of the table is not read"
    return found


@pytest.mark.parametrize(("text", "action", "strict"), documented())
def test_the_guides_table_of_replies_is_correct(text, action, strict):
    reply = parse(text, ACTIONS)
    assert (reply.action, reply.format_valid) == (action, strict)


def test_the_guides_table_names_every_outcome():
    assert {(action is None, strict) for _, action, strict in documented()} == {
        (False, False), (False, True), (True, False), (True, True),
    }  # fmt: skip
