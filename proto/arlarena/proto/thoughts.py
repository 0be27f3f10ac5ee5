"""Where a model's thought ends: what follows it is what the model says.

    said_from("<think>left or up?</think><action>up</action>")   26
    said_from("left or up?</think><action>up</action>")          19: the chat template has opened the thought
    said_from("<think>left or up?")                              None: the thought is not closed

Time is linear in the text.
"""

from __future__ import annotations

import re

THINK, END_THINK = "<think>", "</think>"
# Marks of thoughts that are exact texts. Sources: Open Thoughts and Sky-T1, gpt-oss (harmony), Magistral, Kimi.
MARKS = {
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "<|channel|>analysis<|message|>": "<|channel|>final<|message|>",
    "[THINK]": "[/THINK]",
    "◁think▷": "◁/think▷",
}
_OPENING = {closing: opening for opening, closing in MARKS.items()}
_EXACT = [*MARKS, *MARKS.values()]
# Marks that are tags, in any case, with white space and attributes in them. A tag without content, `<think/>`, is none.
_TAG = r"(?i:\s*+(?P<slash>/?+)\s*+(?P<name>think|thinking|thought|reasoning)(?:\s[^<>/]*+)?+>)"
# Patterns that begin with one character are searched for ten times faster than those that begin with one of several.
_ANGLED = "<(?:" + "|".join([_TAG, *(re.escape(mark[1:]) for mark in _EXACT if mark[0] == "<")]) + ")"
_OTHERS = [mark for mark in _EXACT if mark[0] != "<"]
_MARK = re.compile(_ANGLED)
_ANY_MARK = re.compile("|".join([_ANGLED, *map(re.escape, _OTHERS)]))


def said_from(text: str) -> int | None:
    """Position in `text` where its last thought ends, 0 where it has none, None where a thought is not closed.

    A thought ends at the next closing mark of the kind that opened it; other marks within it are part of it. A closing
    mark that nothing has opened ends a thought that began with the text. So does one of another kind than an opening
    mark before it that has text in front of it: the thought began before, and that mark is mentioned in it.
    """
    start, thought, leads = 0, "", False
    marks = _ANY_MARK if any(mark in text for mark in _OTHERS) else _MARK
    for mark in marks.finditer(text):
        name = mark["name"]
        kind = name.lower() if name else _OPENING.get(mark[0], mark[0])
        closes = bool(mark["slash"]) if name else mark[0] in _OPENING
        if closes and (not leads or thought == kind):
            start, thought, leads = mark.end(), "", False
        elif not closes and not thought:
            thought, leads = kind, not text[start : mark.start()].strip()
    return None if thought else start
