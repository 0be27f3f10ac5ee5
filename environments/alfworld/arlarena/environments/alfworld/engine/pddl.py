"""Reads the part of PDDL that ALFWorld's problems and domains use.

As in official ALFWorld's planner, all words are converted to lower case, and a comment extends to the end of the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from arlarena.environments.alfworld.errors import GameError

Atom = tuple[str, ...]  # a predicate's name and its arguments
Expression: TypeAlias = "str | list[Expression]"

# Maximum number of words, and maximum depth of parentheses. ALFWorld's problems have about 5,000 words and a depth of
# 6.
MAX_WORDS, MAX_DEPTH = 200_000, 32

_COMMENT = re.compile(r";[^\n]*")
_TOKEN = re.compile(r"[()]|[^\s()]+")


@dataclass(frozen=True, slots=True)
class PddlProblem:
    """A problem. `objects`: the type of each object, by name. `facts`: the facts that hold at the start. `goal`: the
    goal's expression.
    """

    objects: dict[str, str]
    facts: frozenset[Atom]
    goal: Expression


def read_expressions(text: str) -> list[Expression]:
    """Return all expressions of a text: nested lists of lower-case words.

    Raises:
        GameError: parentheses do not match, or the text exceeds the limits.
    """
    stack: list[list[Expression]] = [[]]
    for number, token in enumerate(match[0] for match in _TOKEN.finditer(_COMMENT.sub("", text).lower())):
        if number >= MAX_WORDS or len(stack) > MAX_DEPTH:
            raise GameError(f"PDDL: more than {MAX_WORDS} words, or more than {MAX_DEPTH} nested parentheses")
        if token == "(":
            stack.append([])
        elif token == ")":
            if len(stack) == 1:
                raise GameError("PDDL: a closing parenthesis has no opening parenthesis")
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    if len(stack) > 1:
        raise GameError(f"PDDL: {len(stack) - 1} parentheses are not closed: the text may be truncated")
    return stack[0]


def read_problem(text: str) -> PddlProblem:
    """Return a problem's objects, facts and goal.

    Raises:
        GameError: the text is not a PDDL problem, or a required section is missing.
    """
    found = [one for one in read_expressions(text) if isinstance(one, list) and one[:1] == ["define"]]
    if len(found) != 1:
        raise GameError(f"PDDL problem: one (define …) is expected, but there are {len(found)}")
    sections = {str(part[0]): part[1:] for part in found[0][1:] if isinstance(part, list) and part}
    for name in (":objects", ":init", ":goal"):
        if name not in sections:
            raise GameError(f"PDDL problem: it has no {name}")
    if len(sections[":goal"]) != 1:
        raise GameError("PDDL problem: :goal must be one expression")
    objects = dict(typed(sections[":objects"]))
    facts = frozenset(_facts(sections[":init"]))
    for name, *arguments in facts:
        for argument in arguments:
            if argument not in objects:
                raise GameError(f"PDDL problem: ({name} …) has the argument {argument!r}, which is not in :objects")
    return PddlProblem(objects, facts, sections[":goal"][0])


def typed(words: list[Expression]) -> Iterator[tuple[str, str]]:
    """Yield (name, type) for each name of a typed list: `a b - type c` gives (a, type), (b, type), (c, object).

    Raises:
        GameError: the list has another form.
    """
    names: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "-":
            kind = next(rest, None)
            if not isinstance(kind, str):
                raise GameError("PDDL: a type is missing after '-'")
            yield from ((name, kind) for name in names)
            names = []
        elif isinstance(word, str):
            names.append(word)
        else:
            raise GameError(f"PDDL: a name is expected, but there is {word}")
    yield from ((name, "object") for name in names)


def _facts(init: list[Expression]) -> Iterator[Atom]:
    for fact in init:
        if not isinstance(fact, list) or not fact:
            raise GameError(f"PDDL problem: {fact!r} in :init is not a fact")
        if fact[0] == "=":  # costs and distances; no game uses them
            continue
        words = [word for word in fact if isinstance(word, str)]
        if len(words) != len(fact):
            raise GameError(f"PDDL problem: {fact!r} in :init is not a fact")
        yield tuple(words)
