"""The expert: a program that solves the tasks without knowing where things are.

The expert uses only the goal, the things at the current location, and the admissible commands. It has no memory. To
find a thing, the expert visits the receptacles that can hold the thing. Their order is fixed and cyclic, and begins
after the current location. So a policy that sees only the last one or two steps can imitate the expert. The expert
solves every generated game within the horizon.
"""

from __future__ import annotations

from collections.abc import Iterator

from arlarena.environments.alfworld.engine.game import Game, Move
from arlarena.environments.alfworld.engine.state import NOTHING
from arlarena.environments.alfworld.engine.world import House, Mask, bits
from arlarena.environments.alfworld.task_kinds import LIGHT, MARK_OF, TWO, TaskGoal

MAX_MOVES = 400  # maximum length of a plan; a search visits and opens each receptacle at most twice


class NoPlan(RuntimeError):
    """The expert finds no next command."""


class Expert:
    """The expert for a house and a task."""

    def __init__(self, house: House, goal: TaskGoal) -> None:
        self._house, self._goal = house, goal
        self._things = _of_kind(house, "objecttype", goal.thing)
        self._lamps = _of_kind(house, "objecttype", goal.lamp) & house.toggleable if goal.lamp else 0
        self._targets = _of_kind(house, "receptacletype", goal.receptacle) if goal.receptacle else 0
        action = {"isclean": "cleanobject", "ishot": "heatobject", "iscool": "coolobject"}
        self._treatment = action.get(MARK_OF.get(goal.type, ""), "")
        self._order = sorted(house.location_of, key=lambda one: _name_order(house.names[one]))

    def moves(self, game: Game) -> Iterator[tuple[str, str]]:
        """Yield (thought, command) from the current state to the end. The commands are played on a copy of the game.

        Raises:
            NoPlan: the expert finds no next command, or the game is not won after `MAX_MOVES` commands.
        """
        game = game.copy()
        for _ in range(MAX_MOVES):
            if game.won:
                return
            thought, command = self.choose(game)
            yield thought, command
            game.play(command)
        raise NoPlan(f"the expert has not solved the task after {MAX_MOVES} steps")

    def choose(self, game: Game) -> tuple[str, str]:
        """Return the thought and the next command.

        Raises:
            NoPlan: the expert finds no next command.
        """
        goal, held = self._goal, game.state.held
        if held == NOTHING:
            return f"find {goal.thing}", self._next(
                game, "pickupobject", self._things_to_take(game), self._possible_receptacles()
            )
        if not self._things >> held & 1:
            return "drop this", self._next(game, "putobject", -1, self._house.fits.get(held, 0))
        if goal.type == LIGHT:
            return f"find {goal.lamp}", self._next(game, "toggleobject", self._lamps, self._all_receptacles())
        mark = MARK_OF.get(goal.type)
        if mark is not None and not game.state.marks[mark] >> held & 1:
            tools = self._house.tools[self._treatment]
            return f"{self._treatment.removesuffix('object')} {goal.thing}", self._next(
                game, self._treatment, -1, tools
            )
        return f"put {goal.thing} in {goal.receptacle}", self._next(
            game, "putobject", -1, self._target_receptacles(game)
        )

    def _next(self, game: Game, action: str, things: Mask, receptacles: Mask) -> str:
        """Return the next command on the way to `action`, with one of `things` and one of `receptacles`. For `things`,
        the mask -1 means any thing.

        If the action is possible at the current location, return its command. Otherwise, open a closed receptacle of
        `receptacles` at this location. If there is no such receptacle, go to the next receptacle of `receptacles`.
        """
        moves = {move: command for command, move in game.commands.items()}
        for wanted in (action, "openobject"):
            for move, command in moves.items():
                fits = wanted == "openobject" or things >> max(move.thing, 0) & 1
                if move.action == wanted and fits and receptacles >> max(move.receptacle, 0) & 1:
                    return command
        for receptacle in self._route(game.state.location, receptacles):
            command = moves.get(Move("gotolocation", receptacle=receptacle), "")
            if command:
                return command
        raise NoPlan("no receptacle is left to visit")

    def _route(self, here: int, receptacles: Mask) -> list[int]:
        """For each location, return only the first receptacle of `receptacles` by name. The result is in the cyclic
        order of the names, which begins after the current location.
        """
        first: dict[int, int] = {}
        for one in self._order:
            if receptacles >> one & 1:
                first.setdefault(self._house.location_of[one], one)
        places = list(first)
        at = places.index(here) + 1 if here in first else 0
        return [first[place] for place in places[at:] + places[:at]]

    # --- things and receptacles ---

    def _things_to_take(self, game: Game) -> Mask:
        """Return the things that the expert may take. If the task needs two things, a thing in the target receptacle
        stays there.
        """
        things = self._things
        if self._goal.type == TWO:
            for target in bits(self._targets):
                for thing in game.state.inside.get(target, ()):
                    things &= ~(1 << thing)
        return things

    def _target_receptacles(self, game: Game) -> Mask:
        """Return the receptacles into which the held thing may be put. If the task needs two things, the second thing
        must be put into the receptacle of the first thing.
        """
        targets = self._targets & self._house.fits.get(game.state.held, 0)
        if self._goal.type == TWO:
            with_first_thing = [
                target
                for target in bits(targets)
                if any(self._things >> thing & 1 for thing in game.state.inside.get(target, ()))
            ]
            if with_first_thing:
                return 1 << with_first_thing[0]
        return targets

    def _possible_receptacles(self) -> Mask:
        """Return the receptacles that can hold the task's thing. If there are none, return all receptacles."""
        fits = 0
        for thing in bits(self._things):
            fits |= self._house.fits.get(thing, 0)
        return fits or self._all_receptacles()

    def _all_receptacles(self) -> Mask:
        return sum(1 << one for one in self._house.location_of)


def _of_kind(house: House, predicate: str, kind: str) -> Mask:
    """Return the entities of a kind, as a mask."""
    return sum(1 << one for one, of in house.facts.get(predicate, ()) if house.ids[of] == f"{kind}type")


def _name_order(name: str) -> tuple[str, int]:
    kind, _, number = name.rpartition(" ")
    return kind, int(number) if number.isdigit() else 0
