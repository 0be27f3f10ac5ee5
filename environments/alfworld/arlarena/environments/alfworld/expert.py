"""The expert, who plays as one who does not know where things are.

It looks only at the goal, at what the present place shows and at what may be typed now, and remembers nothing: it
searches the receptacles that can hold the thing in one fixed order, starting from where it stands. So a policy that
sees one or two steps back can imitate it. It is done within the horizon in every game that we make.
"""

from __future__ import annotations

from collections.abc import Iterator

from arlarena.environments.alfworld.engine.game import Game, Move
from arlarena.environments.alfworld.engine.state import NOTHING
from arlarena.environments.alfworld.engine.world import House, Mask, bits
from arlarena.environments.alfworld.task_kinds import LIGHT, MARK_OF, TWO, Aim

MAX_MOVES = 400  # a search visits each receptacle twice at most, and opens it


class NoPlan(RuntimeError):
    """The expert knows no way on."""


class Expert:
    """The expert of one house and its task."""

    def __init__(self, house: House, aim: Aim) -> None:
        self._house, self._aim = house, aim
        self._things = _of_kind(house, "objecttype", aim.thing)
        self._lamps = _of_kind(house, "objecttype", aim.lamp) & house.toggleable if aim.lamp else 0
        self._targets = _of_kind(house, "receptacletype", aim.receptacle) if aim.receptacle else 0
        action = {"isclean": "cleanobject", "ishot": "heatobject", "iscool": "coolobject"}
        self._treatment = action.get(MARK_OF.get(aim.type, ""), "")
        self._order = sorted(house.location_of, key=lambda one: _spoken_order(house.names[one]))

    def moves(self, game: Game) -> Iterator[tuple[str, str]]:
        """(what it is after, the command) from here to the end, played on a copy.

        Raises:
            NoPlan: there is none, or it does not come to an end.
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
        """What it is after now, and the next command.

        Raises:
            NoPlan: there is none.
        """
        aim, held = self._aim, game.state.held
        if held == NOTHING:
            return f"find {aim.thing}", self._next(game, "pickupobject", self._wanted(game), self._holders())
        if not self._things >> held & 1:
            return "drop this", self._next(game, "putobject", -1, self._house.fits.get(held, 0))
        if aim.type == LIGHT:
            return f"find {aim.lamp}", self._next(game, "toggleobject", self._lamps, self._anywhere())
        mark = MARK_OF.get(aim.type)
        if mark is not None and not game.state.marks[mark] >> held & 1:
            tools = self._house.tools[self._treatment]
            return f"{self._treatment.removesuffix('object')} {aim.thing}", self._next(game, self._treatment, -1, tools)
        return f"put {aim.thing} in {aim.receptacle}", self._next(game, "putobject", -1, self._suited(game))

    def _next(self, game: Game, action: str, things: Mask, receptacles: Mask) -> str:
        """Do it if it can be done here; else open what is closed here, or go on to the next of `receptacles`."""
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
        """One receptacle of each place, in the order of their names, from the present place on and around."""
        first: dict[int, int] = {}
        for one in self._order:
            if receptacles >> one & 1:
                first.setdefault(self._house.location_of[one], one)
        places = list(first)
        at = places.index(here) + 1 if here in first else 0
        return [first[place] for place in places[at:] + places[:at]]

    # --- where and what ---

    def _wanted(self, game: Game) -> Mask:
        """Things worth taking: of two, not the one that is in place already."""
        wanted = self._things
        if self._aim.type == TWO:
            for target in bits(self._targets):
                for thing in game.state.inside.get(target, ()):
                    wanted &= ~(1 << thing)
        return wanted

    def _suited(self, game: Game) -> Mask:
        """Where to put it: of two things, the second beside the first."""
        targets = self._targets & self._house.fits.get(game.state.held, 0)
        if self._aim.type == TWO:
            begun = [
                target
                for target in bits(targets)
                if any(self._things >> thing & 1 for thing in game.state.inside.get(target, ()))
            ]
            if begun:
                return 1 << begun[0]
        return targets

    def _holders(self) -> Mask:
        """Receptacles that can hold the thing. What lies where it does not fit is found last, by looking everywhere."""
        fits = 0
        for thing in bits(self._things):
            fits |= self._house.fits.get(thing, 0)
        return fits or self._anywhere()

    def _anywhere(self) -> Mask:
        return sum(1 << one for one in self._house.location_of)


def _of_kind(house: House, predicate: str, kind: str) -> Mask:
    """The entities of a kind, as a mask."""
    return sum(1 << one for one, of in house.facts.get(predicate, ()) if house.ids[of] == f"{kind}type")


def _spoken_order(name: str) -> tuple[str, int]:
    kind, _, number = name.rpartition(" ")
    return kind, int(number) if number.isdigit() else 0
