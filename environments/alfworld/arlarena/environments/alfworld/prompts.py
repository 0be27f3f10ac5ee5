"""The prompt templates of ALFWorld."""

from __future__ import annotations

from typing import Literal

from arlarena.environment.prompts import PromptTemplate

TemplateName = Literal["full", "compact"]

FULL = (
    "You are in a house and act by typing one command at a time.\n"
    "{task}\n"
    "{history}\n"
    "What you see now, with {remaining} of {horizon} steps left:\n"
    "{observation}\n\n"
    "Commands that work here: {actions}\n\n"
    "First reason about the next step between <think> and </think>, then give one of these commands between <action> "
    "and </action>, like this: <think>your reasoning</think><action>look</action>"
)
COMPACT = "{task}{history}\n{observation}\n{actions}"

TEMPLATES: dict[TemplateName, PromptTemplate] = {
    "full": PromptTemplate("full", "1", FULL),
    "compact": PromptTemplate("compact", "1", COMPACT),
}
