"""Reads the grammar of a game from its file and compiles it. The grammar defines all texts of the game.

Several rules can have the same name. They are tried in order, and the first rule with a true condition gives the text.
A text consists of these parts:

    words
    #name#                              the text of the rule `name`
    {o.indefinite + ' ' + o.name}       article and name of the entity that is bound to the variable o
    [{r.name | query}]                  a list with one element for each answer to the query

Conditions and queries have the form `predicate(variable:type, …) & …`. Different variables denote different entities.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import cast

from arlarena.environments.alfworld.engine.text_limits import Facts, LimitedFacts, bounded_text
from arlarena.environments.alfworld.errors import GameError

Binding = Mapping[str, int]  # variable -> entity

# Maximum characters of a grammar, and of one text in a grammar. ALFWorld's grammar has 6 KB, and its longest text has
# 50 characters. The limits are necessary because the regular expressions in this module take quadratic time.
MAX_GRAMMAR, MAX_RULE = 1 << 18, 1 << 12


@dataclass(frozen=True, slots=True)
class Conjunct:
    """One condition `predicate(variables)`. A query is a conjunction of such conditions."""

    predicate: str
    variables: tuple[str, ...]


Query = tuple[Conjunct, ...]
Part = str | Callable[["Grammar", LimitedFacts, Binding], str]  # words, or a function that returns words


@dataclass(frozen=True, slots=True)
class Rule:
    """A text of the grammar, and the condition under which the text is used."""

    condition: Query
    parts: tuple[Part, ...]

    def text(self, grammar: Grammar, facts: LimitedFacts, binding: Binding) -> str:
        """Return the text."""
        return _joined(self.parts, grammar, facts, binding)


@dataclass(frozen=True, slots=True)
class Command:
    """The texts of an action: the command, and the response to the command."""

    template: tuple[Part, ...]
    feedback: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Grammar:
    """A compiled grammar: rules by name, and commands by the lower-case name of their action."""

    rules: Mapping[str, Sequence[Rule]]
    commands: Mapping[str, Command]
    predicates: frozenset[str]

    def derive(self, name: str, facts: Facts, binding: Binding) -> str:
        """Return the text of the rule `name`.

        Raises:
            GameError: no rule applies, the text is too long, or its computation takes too long.
        """
        return self._text([_nonterminal(name)], facts, binding)

    def command(self, action: str, facts: Facts, binding: Binding) -> str:
        """Return the command of an action.

        Raises:
            KeyError: the grammar has no such action.
            GameError: no rule applies, the text is too long, or its computation takes too long.
        """
        return self._text(self.commands[action].template, facts, binding)

    def feedback(self, action: str, facts: Facts, binding: Binding) -> str:
        """Return the response after an action.

        Raises:
            KeyError: the grammar has no such action.
            GameError: no rule applies, the text is too long, or its computation takes too long.
        """
        return self._text(self.commands[action].feedback, facts, binding)

    def _text(self, parts: Sequence[Part], facts: Facts, binding: Binding) -> str:
        try:
            return _joined(parts, self, LimitedFacts(facts), binding)
        except GameError:
            raise
        except RecursionError as error:
            raise GameError("grammar: its rules are recursive or nested too deeply") from error
        except KeyError as error:
            raise GameError(f"grammar: a text uses the name {error}, which the game does not have") from error
        except (IndexError, ValueError) as error:
            raise GameError(f"grammar: a condition has a wrong number of variables: {error}") from error

    def derived(self, name: str, facts: LimitedFacts, binding: Binding) -> str:
        """Return the text of the rule `name`, as a part of another text."""
        facts.count()
        for rule in self.rules[name]:
            if _applies(rule.condition, facts, binding):
                return rule.text(self, facts, binding)
        raise GameError(f"grammar: no condition of the rules #{name}# holds")


def _joined(parts: Sequence[Part], grammar: Grammar, facts: LimitedFacts, binding: Binding) -> str:
    return bounded_text("".join([part if isinstance(part, str) else part(grammar, facts, binding) for part in parts]))


def _applies(condition: Query, facts: Facts, binding: Binding) -> bool:
    for at, conjunct in enumerate(condition):
        pattern = tuple([binding.get(variable) for variable in conjunct.variables])
        if None in pattern:
            return next(answers(facts, condition[at:], binding), None) is not None
        if not facts.holds(conjunct.predicate, cast(tuple[int, ...], pattern)):
            return False
    return True


def answers(facts: Facts, query: Query, binding: Binding) -> Iterator[Binding]:
    """Yield the answers to a query: all bindings that extend `binding` and satisfy the query, in the order of ids."""
    if not query:
        yield binding
        return
    first, rest = query[0], query[1:]
    pattern = tuple([binding.get(variable) for variable in first.variables])
    if None not in pattern:
        if facts.holds(first.predicate, cast(tuple[int, ...], pattern)):
            yield from answers(facts, rest, binding)
        return
    for row in facts.rows(first.predicate, pattern):
        new = {variable: value for variable, value in zip(first.variables, row, strict=True) if variable not in binding}
        if len(set(new.values())) == len(new) and not any(value in binding.values() for value in new.values()):
            yield from answers(facts, rest, {**binding, **new})


# --- reading ---

_TOKEN = re.compile(r"""\"{3}(?P<block>.*?)\"{3}|"(?P<string>[^"]*)"|(?P<word>[\w/-]+)|[{}]""", re.DOTALL)
_CONJUNCT = re.compile(r"\s*(\w+)\(\s*(\w+\s*:\s*\w+(?:\s*,\s*\w+\s*:\s*\w+)*)\s*\)\s*")
_PART = re.compile(r"#(?P<rule>[^#\n]+)#|\[\{(?P<element>[^|\]]+)\|(?P<query>[^}\]]+)\}\]|\{(?P<value>[^}#|]+)\}")
_TERM = re.compile(
    r"\s*(?:'(?P<words>[^']*)'|(?P<variable>\w+)\.(?P<field>name|indefinite|definite|id)(?:\s+or\s+\w+\.id)?)\s*"
)
_RULE = re.compile(r"#([\w.]+)#")
_TASK = re.compile(r'("task"\s*:\s*\[\s*\{\s*"rhs"\s*:\s*)"((?:[^"\\]|\\.)*)"')


def read_grammar(text: str) -> tuple[Grammar, str]:
    """Return the grammar of a game, and the sentence that states the task. Games that differ only in this sentence
    share the compiled grammar.

    Raises:
        GameError: the text is not a grammar, or it uses unsupported features.
    """
    if len(text) > MAX_GRAMMAR:
        raise GameError(f"grammar: it has {len(text)} characters, but the limit is {MAX_GRAMMAR}")
    tasks = _TASK.findall(text)
    if len(tasks) != 1:
        raise GameError(f'grammar: one rule "task" with one text is expected, but there are {len(tasks)} such rules')
    task = json.loads(f'"{tasks[0][1]}"', strict=False)
    try:
        shared = _read(_TASK.sub(r'\1""', text))
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise GameError(f"grammar: it cannot be parsed: {error!r}") from error
    return replace(shared, rules={**shared.rules, "task": [Rule((), (task,))]}), task


@lru_cache(maxsize=16)
def _read(text: str) -> Grammar:
    rules: dict[str, list[Rule]] = {}
    predicates: set[str] = set()
    commands: dict[str, Command] = {}
    for action, fields in _sections(text):
        if "grammar" in fields:
            for name, choices in _block(fields["grammar"]).items():
                rules.setdefault(name, []).extend(_rule(choice, predicates) for choice in choices)
        if action and not {"template", "feedback"} <= fields.keys():
            raise GameError(f"grammar: action {action} needs a template and a feedback")
        if action:
            template, feedback = (_parts(fields[name], predicates) for name in ("template", "feedback"))
            commands[action.lower()] = Command(template, feedback)
    for name in sorted({*_RULE.findall(text)} - rules.keys()):
        raise GameError(f"grammar: #{name}# is used, but there is no such rule")
    return Grammar(rules, commands, frozenset(predicates))


def _sections(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield a pair (action, its fields) for each action, and ("", {"grammar": …}) for each block outside actions."""
    action, words = "", ["", ""]
    fields: dict[str, str] = {}
    for token in _TOKEN.finditer(text):
        if token["word"]:
            words = [words[1], token["word"]]
        elif token.group() == "{":
            action, fields = words[1], {}
        elif token.group() == "}":
            yield action, fields
            action, fields = "", {}
        else:
            value = token["block"] if token["block"] is not None else token["string"]
            if action:
                fields[words[1]] = value
            else:
                yield "", {words[1]: value}


def _block(text: str) -> dict[str, list[dict[str, str]]]:
    lines = "\n".join(line for line in text.split("\n") if not line.lstrip().startswith("#"))
    try:
        return {str(name): list(choices) for name, choices in json.loads(lines).items()}
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise GameError(f"grammar: a block is not a JSON object of rules: {error}") from error


def _rule(choice: Mapping[str, str], predicates: set[str]) -> Rule:
    return Rule(
        _query(choice["condition"], predicates) if choice.get("condition") else (),
        _parts(choice["rhs"], predicates),
    )


def _query(text: str, predicates: set[str]) -> Query:
    conjuncts = []
    for part in text.split("&"):
        found = _CONJUNCT.fullmatch(part)
        if found is None:
            raise GameError(f"grammar: condition {text!r} is not understood")
        variables = tuple(one.split(":")[0].strip() for one in found[2].split(","))
        conjuncts.append(Conjunct(found[1], variables))
        predicates.add(found[1])
    return tuple(conjuncts)


def _parts(text: str, predicates: set[str]) -> tuple[Part, ...]:
    if len(text) > MAX_RULE:
        raise GameError(f"grammar: the text {text[:40]!r}… has {len(text)} characters, but the limit is {MAX_RULE}")
    # As in TextWorld's parser: skip white space at the beginning of a text, and support only the escape \n.
    text = text.lstrip().replace("\\n", "\n")
    parts: list[Part] = []
    end = 0
    for found in _PART.finditer(text):
        if found.start() > end:
            parts.append(text[end : found.start()])
        end = found.end()
        if found["rule"]:
            parts.append(_nonterminal(found["rule"]))
        elif found["value"]:
            parts += _value(found["value"])
        else:
            parts.append(_compile_list(found["element"].strip(), _query(found["query"], predicates)))
    if end < len(text):
        parts.append(text[end:])
    return tuple(parts)


def _nonterminal(name: str) -> Part:
    return lambda grammar, facts, binding: grammar.derived(name, facts, binding)


def _value(text: str) -> list[Part]:
    """Parse an expression such as `o.indefinite + ' ' + o.name`. A variable `o` without an attribute means `o.name`."""
    terms: list[Part] = []
    for term in text.split("+"):
        found = _TERM.fullmatch(term)
        if found is None and re.fullmatch(r"\s*\w+\s*", term):
            terms.append(_field(term.strip(), "name"))
        elif found is None:
            raise GameError(f"grammar: {{{text}}} is not understood")
        elif found["variable"]:
            terms.append(_field(found["variable"], found["field"]))
        else:
            terms.append(found["words"] or "")
    folded: list[Part] = []
    for part in terms:
        if folded and isinstance(part, str) and isinstance(folded[-1], str):
            folded[-1] += part
        else:
            folded.append(part)
    return folded


def _field(variable: str, field: str) -> Part:
    fixed = {"indefinite": "a", "definite": "the"}.get(field)
    if fixed is not None:
        return fixed
    return lambda grammar, facts, binding: facts.name(binding[variable])


def _compile_list(element: str, query: Query) -> Part:
    """Return a function that renders a list. `element`: the grammar's text for one element of the list."""
    rule = element[1:-1] if element[:1] == element[-1:] == "#" else ""
    parts = [_nonterminal(rule)] if rule else _value(element)

    def listed(grammar: Grammar, facts: LimitedFacts, binding: Binding) -> str:
        items = [_joined(parts, grammar, facts, answer) for answer in answers(facts, query, binding)]
        return _enumerated(items, grammar, facts, binding)

    return listed


def _enumerated(items: list[str], grammar: Grammar, facts: LimitedFacts, binding: Binding) -> str:
    if len(items) < 2:
        return items[0] if items else grammar.derived("list_empty", facts, binding)
    separator, last = (grammar.derived(name, facts, binding) for name in ("list_separator", "list_last_separator"))
    return bounded_text(separator.join(items[:-1]) + last + items[-1])
