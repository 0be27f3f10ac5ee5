"""A game's goal, compiled: whether it is reached in a state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from arlarena.env_server.alfworld.errors import GameError
from arlarena.env_server.alfworld.pddl import Expression, typed
from arlarena.env_server.alfworld.state import State, check_predicates
from arlarena.env_server.alfworld.world import CHANGING, House

Scope = dict[str, int]
Test = Callable[[State, Scope], bool]


def compile_goal(goal: Expression, house: House, types: Mapping[str, str]) -> Callable[[State], bool]:
    """The test of a goal expression. `types`: of all objects, by id.

    Raises:
        GameError: it is not understood.
    """
    test = _Compiler(house, types).test(goal)
    return lambda state: test(state, {})


class _Compiler:
    def __init__(self, house: House, types: Mapping[str, str]) -> None:
        self._house = house
        self._number = {one: at for at, one in enumerate(house.ids)}
        self._of_type: dict[str, list[int]] = {}
        for at, one in enumerate(house.ids):
            self._of_type.setdefault(types[one], []).append(at)

    def test(self, goal: Expression) -> Test:
        match goal:
            case ["and", *parts]:
                tests = [self.test(part) for part in parts]
                return lambda state, scope: all(test(state, scope) for test in tests)
            case ["or", *parts]:
                tests = [self.test(part) for part in parts]
                return lambda state, scope: any(test(state, scope) for test in tests)
            case ["not", part]:
                test = self.test(part)
                return lambda state, scope: not test(state, scope)
            case ["exists", list(variables), body]:
                return self._exists(variables, body)
            case ["=", str(one), str(other)]:
                left, right = self._term(one), self._term(other)
                return lambda state, scope: left(scope) == right(scope)
            case [str(predicate), *terms] if all(isinstance(term, str) for term in terms):
                return self._atom(predicate, [str(term) for term in terms])
        raise GameError(f"PDDL goal: {goal!r} is not understood")

    def _exists(self, variables: list[Expression], body: Expression) -> Test:
        """The first of `variables` over its candidates, the others inside."""
        names = list(typed(variables))
        if not names:
            return self.test(body)
        name, kind = names[0]
        rest: Expression = ["exists", [word for one, of in names[1:] for word in (one, "-", of)], body]
        inner = self.test(rest)
        candidates = self._candidates(name, kind, body)

        def test(state: State, scope: Scope) -> bool:
            return any(inner(state, {**scope, name: one}) for one in candidates)

        return test

    def _candidates(self, name: str, kind: str, body: Expression) -> list[int]:
        """What the variable can be: all of its type that fit what `body` says of it alone and forever."""
        found = self._of_type.get(kind, [])
        for part in _conjuncts(body):
            match part:
                case [str(predicate), str(term)] if term == name and predicate not in CHANGING:
                    known = self._house.known.get(predicate, frozenset())
                    found = [one for one in found if (one,) in known]
                case [str(predicate), str(term), str(value)] if (
                    term == name and not value.startswith("?") and predicate not in CHANGING
                ):
                    known = self._house.known.get(predicate, frozenset())
                    found = [one for one in found if (one, self._number.get(value, -1)) in known]
        return found

    def _atom(self, predicate: str, terms: list[str]) -> Test:
        check_predicates(frozenset((predicate,)), "PDDL goal")
        values = [self._term(term) for term in terms]
        if predicate not in CHANGING:
            known = self._house.known.get(predicate, frozenset())
            return lambda state, scope: tuple([value(scope) for value in values]) in known
        return lambda state, scope: any(True for _ in state.rows(predicate, tuple([value(scope) for value in values])))

    def _term(self, term: str) -> Callable[[Scope], int]:
        if term.startswith("?"):
            return lambda scope: scope[term]
        number = self._number.get(term, -1)
        return lambda scope: number


def _conjuncts(body: Any) -> list[Any]:
    """The parts of a conjunction, those of inner ones included; what is not a conjunction is its only part."""
    if isinstance(body, list) and body[:1] == ["and"]:
        return [one for part in body[1:] for one in _conjuncts(part)]
    return [body]
