"""Compiles the goal of a game into a function that tests whether the goal holds in a state."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from arlarena.environments.alfworld.engine.pddl import Expression, typed
from arlarena.environments.alfworld.engine.state import WorldState, check_predicates
from arlarena.environments.alfworld.engine.world import CHANGING, House, Mask
from arlarena.environments.alfworld.errors import GameError

MAX_TRIES = 100_000  # maximum number of variable bindings tried in one test; ALFWorld's goals need a few hundred

Scope = dict[str, int]
Test = Callable[[WorldState, Scope], bool]


def compile_goal(goal: Expression, house: House, types: Mapping[str, str]) -> tuple[Callable[[WorldState], bool], Mask]:
    """Compile a goal expression. `types`: the type of each object, by the object's id.

    Returns:
        (holds, entities). `holds`: a function that tests whether the goal holds in a state. `entities`: the mask of
        the entities that the goal can refer to.

    Raises:
        GameError: the expression is not supported.
    """
    compiler = _Compiler(house, types)
    test = compiler.test(goal)

    def holds(state: WorldState) -> bool:
        compiler.tries_left = MAX_TRIES
        return test(state, {})

    return holds, compiler.goal_entities


def changing_predicates(goal: Expression) -> frozenset[str]:
    """Return the predicates in a goal that are in `CHANGING`: their facts can change during a game."""
    if isinstance(goal, str):
        return frozenset()
    own = frozenset(word for word in goal[:1] if isinstance(word, str) and word in CHANGING)
    return own.union(*(changing_predicates(part) for part in goal))


class _Compiler:
    def __init__(self, house: House, types: Mapping[str, str]) -> None:
        self._house, self.goal_entities = house, 0
        self.tries_left = MAX_TRIES  # number of bindings that the current test can still try; concurrent tests share it
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
        """Return a test that checks whether the body holds for some values of the variables. The test is a backtracking
        search.

        Variables with the fewest candidates get their values first. Each part of the body is tested as soon as all its
        variables have values.
        """
        kinds, parts = _merged(dict(typed(variables)), body)
        domains = {name: self._candidates(name, kind, parts) for name, kind in kinds.items()}
        self.goal_entities |= sum(1 << one for one in {one for found in domains.values() for one in found})
        names = sorted(domains, key=lambda name: len(domains[name]))
        tests: list[list[Test]] = [[] for _ in names]
        always: list[Test] = []
        for part in parts:
            last = max((names.index(name) for name in _variables(part) if name in domains), default=-1)
            (always if last < 0 else tests[last]).append(self.test(part))
        levels = [(name, domains[name], tests[at]) for at, name in enumerate(names)]

        def search(state: WorldState, scope: Scope, depth: int) -> bool:
            if depth == len(levels):
                return True
            name, candidates, checks = levels[depth]
            self.tries_left -= len(candidates)
            if self.tries_left < 0:
                raise GameError(f"PDDL goal: a test takes more than {MAX_TRIES} tries")
            for one in candidates:
                scope[name] = one
                if all(check(state, scope) for check in checks) and search(state, scope, depth + 1):
                    return True
            return False

        return lambda state, scope: all(test(state, scope) for test in always) and search(state, dict(scope), 0)

    def _candidates(self, name: str, kind: str, parts: list[Expression]) -> list[int]:
        """Return the candidates for the variable `name`: the entities of type `kind` that satisfy the static conditions
        on `name` in `parts`. A static condition has a predicate outside `CHANGING` and no other variable.
        """
        # `object` is the root of PDDL's types and matches every entity.
        found = list(range(len(self._house.ids))) if kind == "object" else self._of_type.get(kind, [])
        for part in parts:
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
        return lambda state, scope: state.holds(predicate, tuple([value(scope) for value in values]))

    def _term(self, term: str) -> Callable[[Scope], int]:
        if term.startswith("?"):
            return lambda scope: scope[term]
        number = self._number.get(term, -1)
        self.goal_entities |= 1 << number if number >= 0 else 0
        return lambda scope: number


def _merged(kinds: dict[str, str], body: Expression) -> tuple[dict[str, str], list[Expression]]:
    """Return (variables, parts) of a conjunction. They include the variables and the parts of each inner `exists`.
    Exception: if a variable of an inner `exists` has the name of another variable, this `exists` stays a single part.
    """
    parts: list[Expression] = []
    for part in _conjuncts(body):
        match part:
            case ["exists", list(variables), inner] if not kinds.keys() & {name for name, _ in typed(variables)}:
                kinds, more = _merged({**kinds, **dict(typed(variables))}, inner)
                parts += more
            case _:
                parts.append(part)
    return kinds, parts


def _conjuncts(body: Expression) -> list[Expression]:
    """Return the parts of a conjunction, and of all conjunctions inside it. Return any other expression as
    the only part.
    """
    if isinstance(body, list) and body[:1] == ["and"]:
        return [one for part in body[1:] for one in _conjuncts(part)]
    return [body]


def _variables(part: Expression) -> set[str]:
    """Return all variables in an expression."""
    if isinstance(part, str):
        return {part} if part.startswith("?") else set()
    return set().union(*(_variables(one) for one in part))
