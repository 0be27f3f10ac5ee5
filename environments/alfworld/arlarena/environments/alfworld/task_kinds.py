"""The six kinds of tasks, with their goals in PDDL and their sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from arlarena.environments.alfworld.engine.pddl import Expression
from arlarena.environments.alfworld.errors import GameError

PICK, LIGHT, CLEAN, HEAT, COOL, TWO = TASK_TYPES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
MARK_OF = {CLEAN: "isclean", HEAT: "ishot", COOL: "iscool"}
ABILITY_OF = {CLEAN: "cleanable", HEAT: "heatable", COOL: "coolable"}
SENTENCES: Mapping[str, tuple[str, str]] = {
    PICK: ("put a {thing} in {receptacle}", "put some {thing} on {receptacle}"),
    LIGHT: ("look at {thing} under the {lamp}", "examine the {thing} with the {lamp}"),
    CLEAN: ("put a clean {thing} in {receptacle}", "clean some {thing} and put it in {receptacle}"),
    HEAT: ("put a hot {thing} in {receptacle}", "heat some {thing} and put it in {receptacle}"),
    COOL: ("put a cool {thing} in {receptacle}", "cool some {thing} and put it in {receptacle}"),
    TWO: ("put two {thing} in {receptacle}", "find two {thing} and put them in {receptacle}"),
}


@dataclass(frozen=True, slots=True)
class TaskGoal:
    """The goal of a task. `type`: the kind of task. `thing`, `receptacle`, `lamp`: their kinds, such as `Potato`,
    `SinkBasin` and `DeskLamp`. `receptacle` or `lamp` is "" if the task does not need it.
    """

    type: str
    thing: str
    receptacle: str = ""
    lamp: str = ""

    def sentence(self, choice: int) -> str:
        """Return the sentence that states the task. `choice`: the number of the wording, 0 or 1."""
        words = {"thing": self.thing.lower(), "receptacle": self.receptacle.lower(), "lamp": self.lamp.lower()}
        return f"Your task is to: {SENTENCES[self.type][choice].format(**words)}."

    def pddl(self) -> str:
        """Return the goal in PDDL."""
        kinds = f"(objectType ?o {self.thing}Type) (receptacleType ?r {self.receptacle}Type)"
        if self.type == LIGHT:
            return (
                "(and (exists (?ot - object ?r - receptacle ?a - agent ?l - location) "
                f"(and (objectType ?ot {self.lamp}Type) (toggleable ?ot) (isToggled ?ot) (receptacleAtLocation ?r ?l) "
                "(atLocation ?a ?l) (inReceptacle ?ot ?r))) "
                f"(exists (?o - object ?a - agent) (and (objectType ?o {self.thing}Type) (holds ?a ?o))))"
            )
        if self.type == TWO:
            one, other = kinds.replace("?o", "?o1"), kinds.replace("?o", "?o2")
            return (
                f"(and (exists (?r - receptacle) (exists (?o1 - object) (and {one} (inReceptacle ?o1 ?r) "
                f"(exists (?o2 - object) (and (not (= ?o1 ?o2)) {other} (inReceptacle ?o2 ?r)))))))"
            )
        state = ""
        if self.type in MARK_OF:
            state = f"({ABILITY_OF[self.type]} ?o) ({MARK_OF[self.type]} ?o) "
        return f"(and (exists (?r - receptacle) (exists (?o - object) (and {state}{kinds} (inReceptacle ?o ?r)))))"


def goal_of(goal: Expression) -> TaskGoal:
    """Parse a PDDL goal of one of the six kinds of tasks. The kinds of things in the result are in lower case.

    Raises:
        GameError: the goal does not belong to one of the six kinds.
    """
    atoms = list(_atoms(goal))
    kinds = {(atom[0], atom[1]): atom[2].removesuffix("type") for atom in atoms if atom[0].endswith("type")}
    toggled = {atom[1] for atom in atoms if atom[0] == "istoggled"}
    things = [kind for (predicate, name), kind in kinds.items() if predicate == "objecttype" and name not in toggled]
    lamps = [kind for (predicate, name), kind in kinds.items() if predicate == "objecttype" and name in toggled]
    receptacles = [kind for (predicate, _), kind in kinds.items() if predicate == "receptacletype"]
    marks = {atom[0] for atom in atoms}
    if marks & {"issliced", "inreceptacleobject"} or not things or len(set(things)) > 1:
        raise GameError("PDDL goal: it is none of ALFWorld's six kinds of tasks")
    if lamps and not receptacles:
        return TaskGoal(LIGHT, things[0], lamp=lamps[0])
    if len(set(receptacles)) != 1:
        raise GameError("PDDL goal: it is none of ALFWorld's six kinds of tasks")
    kind = next((task for task, mark in MARK_OF.items() if mark in marks), TWO if len(things) > 1 else PICK)
    return TaskGoal(kind, things[0], receptacles[0])


def _atoms(goal: Expression) -> Iterator[tuple[str, ...]]:
    """Yield all predicates in an expression, each with its terms."""
    if not isinstance(goal, list) or not goal:
        return
    words = [word for word in goal if isinstance(word, str)]
    if len(words) == len(goal) and words[0] not in ("and", "or", "not", "exists"):
        yield tuple(words)
        return
    for part in goal[2:] if goal[0] == "exists" else goal:
        yield from _atoms(part)
