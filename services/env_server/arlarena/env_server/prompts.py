"""Prompt templates of text games: the present observation, and before it the turns that the history window shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from string import Formatter

import msgspec

from arlarena.proto.env import Template


class Past(msgspec.Struct, frozen=True, gc=False):
    """One earlier turn, as the prompt's history shows it."""

    step: int
    observation: str
    action: str


class Scene(msgspec.Struct, frozen=True, gc=False):
    """What a prompt is made of. `past`: the turns of the window, oldest first; `actions`: None for any text; `task`: ""
    where the observation says it.
    """

    observation: str
    past: Sequence[Past]
    remaining: int
    horizon: int
    actions: Sequence[str] | None = None
    task: str = ""


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """A template: text with any of the fields {task}, {observation}, {history}, {remaining}, {horizon}, {actions}."""

    name: str
    version: str
    text: str

    def render(self, scene: Scene) -> str:
        """The user message of one turn."""
        fields = {
            "task": scene.task,
            "observation": scene.observation,
            "history": _history(scene.past),
            "remaining": str(scene.remaining),
            "horizon": str(scene.horizon),
            "actions": ", ".join(scene.actions or ()),
        }
        return "".join([before + fields[name] if name else before for before, name in _pieces(self.text)])

    def describe(self) -> Template:
        """The template as `/v1/info` shows it."""
        return Template(self.name, self.version, self.text)


@cache
def _pieces(text: str) -> list[tuple[str, str | None]]:
    """A template taken apart once: what stands before each field, and its name; the last piece has none."""
    return [(before, name) for before, name, _, _ in Formatter().parse(text)]


def _history(past: Sequence[Past]) -> str:
    if not past:
        return ""
    turns = "\n".join([f"[Step {turn.step}]\n{turn.observation}\nYour action: {turn.action}" for turn in past])
    return f"\nYour last {len(past)} steps:\n{turns}\n" if len(past) > 1 else f"\nYour last step:\n{turns}\n"
