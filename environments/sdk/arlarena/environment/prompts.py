"""Prompt templates of text games. A prompt can contain the current observation and recent turns (the history)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from string import Formatter

import msgspec

from arlarena.proto.env_api import Template


class Scene(msgspec.Struct, frozen=True, gc=False):
    """The contents of a prompt.

    Attributes:
        observation: the current observation.
        past: the most recent turns in the format of `past_turn`, oldest first.
        remaining: number of steps left.
        horizon: maximum number of steps of the episode.
        actions: the admissible actions as text; "" if any text is an action.
        task: a sentence that states the task; "" if the observation states it.
    """

    observation: str
    past: Sequence[str]
    remaining: int
    horizon: int
    actions: str = ""
    task: str = ""

    @property
    def history(self) -> str:
        """The most recent turns with a heading; "" without earlier turns."""
        if not self.past:
            return ""
        turns, count = "\n".join(self.past), len(self.past)
        return f"\nYour last {count} steps:\n{turns}\n" if count > 1 else f"\nYour last step:\n{turns}\n"


FIELDS = ("task", "observation", "history", "remaining", "horizon", "actions")


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """A text with the optional fields {task}, {observation}, {history}, {remaining}, {horizon} and {actions}. In the
    text, `{{` and `}}` mean single braces.

    Raises:
        ValueError: the text has another field, or a single brace.
    """

    name: str
    version: str
    text: str
    # `text` as a pattern for the operator %, and a function that returns the values of the fields. Together they render
    # long prompts five times as fast as `str.format`.
    _pattern: str = field(init=False, repr=False, compare=False)
    _values: Callable[[Scene], object] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the fields of the text, and prepare `render`."""
        try:
            parts = list(Formatter().parse(self.text))
        except ValueError as error:
            raise ValueError(f"template {self.name!r}: {error}") from error
        pattern, names = "", []
        for literal, name, spec, conversion in parts:
            pattern += literal.replace("%", "%%")
            if name is None:
                continue
            if name not in FIELDS or spec or conversion:
                raise ValueError(f"template {self.name!r} has the field {{{name}}}; the fields are {', '.join(FIELDS)}")
            pattern += "%s"
            names.append(name)
        object.__setattr__(self, "_pattern", pattern)
        object.__setattr__(self, "_values", attrgetter(*names) if names else lambda _: ())

    def render(self, scene: Scene) -> str:
        """Return the user message of one turn."""
        return self._pattern % self._values(scene)

    def describe(self) -> Template:
        """Return the template as `/v1/info` shows it."""
        return Template(self.name, self.version, self.text)


def past_turn(step: int, observation: str, action: str) -> str:
    """Format an earlier turn for the prompt's history."""
    return f"[Step {step}]\n{observation}\nYour action: {action}"
