"""The expert, which does not know where things are.

It uses only the goal, the current location's contents and the admissible commands, and has no memory. It searches the
receptacles that can hold the thing in a fixed order, starting at the current location. So a policy that sees the last
one or two steps can imitate the expert. The expert solves every generated game within the horizon.
"""

from __future__ import annotations

from collections.abc import Iterator

from arlarena.environments.alfworld.engine.game import Game, Move
from arlarena.environments.alfworld.engine.state import NOTHING
from arlarena.environments.alfworld.engine.world import House, Mask, bits
from arlarena.environments.alfworld.task_kinds import LIGHT, MARK_OF, TWO, TaskGoal

MAX_MOVES = 400  # a search visits and opens each receptacle at most twice


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
            NoPlan: there is no next command, or no end after `MAX_MOVES`.
        """
        game = game.copy()
        for _ in range(MAX_MOVES):
            if game.won:
                return
            thought, command = self.choose(game)
            yield thought, command
            game.play(command)
        raise NoPlan(f"the expert is not done after {MAX_MOVES} steps")

    def choose(self, game: Game) -> tuple[str, str]:
        """Return the thought and the next command.

        Raises:
            NoPlan: there is no next command.
        """
        goal, held = self._goal, game.state.held
        if held == NOTHING:
            return f"find {goal.thing}", self._next(game, "pickupobject", self._wanted(game), self._holders())
        if not self._things >> held & 1:
            return "drop this", self._next(game, "putobject", -1, self._house.fits.get(held, 0))
        if goal.type == LIGHT:
            return f"find {goal.lamp}", self._next(game, "toggleobject", self._lamps, self._anywhere())
        mark = MARK_OF.get(goal.type)
        if mark is not None and not game.state.marks[mark] >> held & 1:
            tools = self._house.tools[self._treatment]
            return f"{self._treatment.removesuffix('object')} {goal.thing}", self._next(
                game, self._treatment, -1, tools
            )
        return f"put {goal.thing} in {goal.receptacle}", self._next(game, "putobject", -1, self._suited(game))

    def _next(self, game: Game, action: str, things: Mask, receptacles: Mask) -> str:
        """Return the command for `action` if the action is possible here. Otherwise open a closed receptacle here, or
        go to the next of `receptacles`.
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
        raise NoPlan("there is nowhere to go for what the task needs")

    def _route(self, here: int, receptacles: Mask) -> list[int]:
        """Return one receptacle of each location, in cyclic order of names, starting after the current location."""
        first: dict[int, int] = {}
        for one in self._order:
            if receptacles >> one & 1:
                first.setdefault(self._house.location_of[one], one)
        places = list(first)
        at = places.index(here) + 1 if here in first else 0
        return [first[place] for place in places[at:] + places[:at]]

    # --- things and receptacles ---

    def _wanted(self, game: Game) -> Mask:
        """Return the things that the task needs. For a task of two things, a thing that is already in place is left
        out.
        """
        wanted = self._things
        if self._goal.type == TWO:
            for target in bits(self._targets):
                for thing in game.state.inside.get(target, ()):
                    wanted &= ~(1 << thing)
        return wanted

    def _suited(self, game: Game) -> Mask:
        """Return the receptacles for the thing. For a task of two things, the second thing goes where the first
        one is.
        """
        targets = self._targets & self._house.fits.get(game.state.held, 0)
        if self._goal.type == TWO:
            begun = [
                target
                for target in bits(targets)
                if any(self._things >> thing & 1 for thing in game.state.inside.get(target, ()))
            ]
            if begun:
                return 1 << begun[0]
        return targets

    def _holders(self) -> Mask:
        """Return the receptacles that can hold the thing, or all receptacles if no receptacle can."""
        fits = 0
        for thing in bits(self._things):
            fits |= self._house.fits.get(thing, 0)
        return fits or self._anywhere()

    def _anywhere(self) -> Mask:
        return sum(1 << one for one in self._house.location_of)


def _of_kind(house: House, predicate: str, kind: str) -> Mask:
    """Return the entities of a kind, as a mask."""
    return sum(1 << one for one, of in house.facts.get(predicate, ()) if house.ids[of] == f"{kind}type")


def _name_order(name: str) -> tuple[str, int]:
    kind, _, number = name.rpartition(" ")
    return kind, int(number) if number.isdigit() else 0
