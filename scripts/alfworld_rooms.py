"""Write the facts of ALFWorld's rooms that house-making needs, from an installed `alfworld` 0.4.2 (MIT licence).

    python -m venv /tmp/alfworld && /tmp/alfworld/bin/pip install --no-deps alfworld==0.4.2
    python scripts/alfworld_rooms.py /tmp/alfworld/lib/python3.*/site-packages/alfworld

Which receptacles stand where in the 120 floor plans, what kinds of things are found there, what fits into what, and
what can be cleaned, heated and cooled. One line a floor plan.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

ALFWORLD = Path(__file__).resolve().parents[1] / "environments/alfworld/arlarena/environments/alfworld"
OUT = ALFWORLD / "houses/data/rooms.json"
TABLES = ("VAL_RECEPTACLE_OBJECTS", "VAL_ACTION_OBJECTS", "OPENABLE_CLASS_LIST", "MOVABLE_RECEPTACLES", "GOALS_VALID")


def tables(constants: Path) -> dict[str, Any]:
    """Read the constants without running their module, which would import packages that are not in the wheel."""
    found = {}
    for node in ast.parse(constants.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in TABLES:
            found[node.targets[0].id] = ast.literal_eval(node.value)
    return found


def plain(things: set[str]) -> list[str]:
    """Leave out sliced things, because no game of ALFWorld has them."""
    return sorted(thing for thing in things if not thing.endswith("Sliced"))


def room(layouts: Path, number: int) -> dict[str, Any]:
    """Return the receptacles of a floor plan, with the place of a player who uses them: id, column, row, quarter turns,
    degrees down.
    """
    reached = json.loads((layouts / f"FloorPlan{number}-openable.json").read_text())
    kinds = json.loads((layouts / f"FloorPlan{number}-objects.json").read_text())
    return {
        "kinds": sorted(kinds),
        "receptacles": [
            [name, round(x * 4), round(z * 4), round(turn) // 90, round(down)]
            for name, (x, z, turn, down) in sorted(reached.items())
        ],
    }


def main() -> None:
    """Read the package and write the file."""
    package = Path(sys.argv[1])
    constants = tables(package / "gen" / "constants.py")
    movable = sorted(constants["MOVABLE_RECEPTACLES"])
    numbers = sorted(int(path.name[9:].split("-")[0]) for path in (package / "gen/layouts").glob("*-openable.json"))
    facts = {
        "source": "alfworld 0.4.2, MIT licence, (c) Mohit Shridhar and others; floor plans of ALFRED and AI2-THOR",
        "fits": {
            kind: plain(things)
            for kind, things in sorted(constants["VAL_RECEPTACLE_OBJECTS"].items())
            if kind not in movable
        },
        "able": {what.lower(): plain(things) for what, things in sorted(constants["VAL_ACTION_OBJECTS"].items())},
        "openable": sorted(set(constants["OPENABLE_CLASS_LIST"]) - set(movable)),
        "movable": movable,
        "goals": {goal: sorted(rooms) for goal, rooms in constants["GOALS_VALID"].items() if "movable" not in goal},
    }
    head = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in facts.items())
    rooms = ",\n".join(f"  {json.dumps(str(n))}: {json.dumps(room(package / 'gen/layouts', n))}" for n in numbers)
    OUT.write_text(f'{{\n{head},\n "rooms": {{\n{rooms}\n }}\n}}\n')
    print(f"{OUT}: {len(numbers)} rooms, {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
