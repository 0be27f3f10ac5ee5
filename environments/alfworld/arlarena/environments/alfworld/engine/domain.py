"""The rules of this engine as a PDDL domain, and the check that a game has the same rules.

Generated games contain `DOMAIN`. This domain is equivalent to the domain of ALFRED, the data set behind ALFWorld.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

from arlarena.environments.alfworld.engine.pddl import Expression, read_expressions, typed
from arlarena.environments.alfworld.errors import GameError

DOMAIN = resources.files(__package__).joinpath("data/domain.pddl").read_text(encoding="utf-8")
GRAMMAR = resources.files(__package__).joinpath("data/grammar.twl2").read_text(encoding="utf-8")

UNSATISFIABLE = ("never",)  # replaces a condition that never holds; ALFRED's domain has such a condition
# ALFWorld 0.4 added this action. The games of the older data set json_2.1.1 do not have it.
OPTIONAL_ACTIONS = frozenset(("help",))


@lru_cache(maxsize=16)
def check_domain(text: str) -> frozenset[str]:
    """Check that a domain has the rules of `DOMAIN`. Comments, layout and the order of conditions do not matter.

    Returns:
        The names of the domain's actions.

    Raises:
        GameError: the domain differs from `DOMAIN`. The message names the difference.
    """
    ours, theirs = _actions(DOMAIN), _actions(text)
    if unknown := sorted(theirs.keys() - ours.keys()):
        raise GameError(
            f"PDDL domain: action {unknown[0]} is not in ALFWorld's domain: play this game with backend = 'textworld'"
        )
    for name, action in theirs.items():
        if action != ours[name]:
            raise GameError(
                f"PDDL domain: action {name} differs from ALFWorld's domain: play this game with backend = 'textworld'"
            )
    if missing := sorted(ours.keys() - theirs.keys() - OPTIONAL_ACTIONS):
        raise GameError(f"PDDL domain: action {missing[0]} is missing: play this game with backend = 'textworld'")
    return frozenset(theirs)


def _actions(text: str) -> dict[str, object]:
    """Return the actions of a domain by name, in a canonical form that is equal for equivalent definitions."""
    definition = next((one for one in read_expressions(text) if isinstance(one, list) and one[:1] == ["define"]), None)
    if not isinstance(definition, list):
        raise GameError("PDDL domain: there is no (define …)")
    return {
        str(part[1]): tuple(_canonical(one) for one in part[2:])
        for part in definition
        if isinstance(part, list) and part[:1] == [":action"]
    }


def _canonical(expression: Expression) -> object:
    if isinstance(expression, str):
        return expression
    if expression[:1] == ["exists"] and isinstance(expression[1], list) and _without_values(expression[1]):
        return UNSATISFIABLE
    parts = [_canonical(part) for part in expression]
    if parts[:1] not in (["and"], ["or"]):
        return tuple(parts)
    costs = ("increase",)
    parts = [p for p in parts[1:] if p != UNSATISFIABLE and not (isinstance(p, tuple) and p[0:1] == costs)]
    return parts[0] if len(parts) == 1 else (expression[0], frozenset(parts))


def _without_values(variables: list[Expression]) -> bool:
    """Return whether the type of a variable ends with a comma (a typo in ALFRED's domain). No object has such a type,
    so the variable has no values.
    """
    return any(kind.endswith(",") for _, kind in typed(variables))
