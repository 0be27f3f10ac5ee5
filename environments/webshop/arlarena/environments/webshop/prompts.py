"""The prompt templates of WebShop."""

from __future__ import annotations

from typing import Literal

from arlarena.environment.prompts import PromptTemplate

TemplateName = Literal["full", "compact"]

FULL = (
    "You are shopping in an online store. Find the product that this text asks for, choose its options, and buy it.\n"
    "Instruction: {task}\n"
    "{history}\n"
    "The page you see now, with {remaining} of {horizon} steps left. [SEP] separates its parts:\n"
    "{observation}\n\n"
    "Actions that work here, one per line:\n"
    "{actions}\n\n"
    "First reason about the next step between <think> and </think>, then give one action between <action> and "
    "</action>, like this: <think>your reasoning</think><action>search[red shoes]</action>"
)
COMPACT = "Instruction: {task}{history}\n{observation}\n{actions}"

TEMPLATES: dict[TemplateName, PromptTemplate] = {
    "full": PromptTemplate("full", "1", FULL),
    "compact": PromptTemplate("compact", "1", COMPACT),
}
