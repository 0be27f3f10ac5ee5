"""Writes `rooms.json`, the data file of our ALFWorld house generator, from the package `alfworld` 0.4.2 (MIT licence).

    python -m venv /tmp/alfworld && /tmp/alfworld/bin/pip install --no-deps alfworld==0.4.2
    python scripts/alfworld_rooms.py /tmp/alfworld/lib/python3.*/site-packages/alfworld

`rooms.json` contains:

- the receptacles of the 120 floor plans with their positions
- the kinds of objects in each floor plan
- for each kind of receptacle, the kinds of objects that it can hold
- the kinds of objects that can be cleaned, heated, cooled, sliced or switched on

Each floor plan is one line of `rooms.json`.
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
    """Return the values of the constants in `TABLES`: name → value. `constants`: alfworld's file `gen/constants.py`.

    This function parses the source, because an import would need packages that are not installed.
    """
    values = {}
    for node in ast.parse(constants.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in TABLES:
            values[node.targets[0].id] = ast.literal_eval(node.value)
    return values


def without_sliced(kinds: set[str]) -> list[str]:
    """Return `kinds` as a sorted list, without the kinds of sliced objects. No game of ALFWorld has a sliced object."""
    return sorted(kind for kind in kinds if not kind.endswith("Sliced"))


def room(layouts: Path, number: int) -> dict[str, Any]:
    """Return the entry of floor plan `number` in `rooms.json`: its kinds of objects, and its receptacles.

    Each receptacle is a list [id, column, row, heading, angle]. The last four values describe a player at the
    receptacle: column and row in units of 0.25 m, heading in quarter turns, and downward angle of view in degrees.
    """
    positions = json.loads((layouts / f"FloorPlan{number}-openable.json").read_text())
    kinds = json.loads((layouts / f"FloorPlan{number}-objects.json").read_text())
    return {
        "kinds": sorted(kinds),
        "receptacles": [
            [name, round(x * 4), round(z * 4), round(turn) // 90, round(down)]
            for name, (x, z, turn, down) in sorted(positions.items())
        ],
    }


def main() -> None:
    """Read the folder of the package `alfworld` (the first argument), and write `OUT`."""
    package = Path(sys.argv[1])
    constants = tables(package / "gen" / "constants.py")
    movable = sorted(constants["MOVABLE_RECEPTACLES"])
    numbers = sorted(int(path.name[9:].split("-")[0]) for path in (package / "gen/layouts").glob("*-openable.json"))
    facts = {
        "source": "alfworld 0.4.2, MIT licence, (c) Mohit Shridhar and others; floor plans of ALFRED and AI2-THOR",
        "objects_by_receptacle": {
            receptacle: without_sliced(objects)
            for receptacle, objects in sorted(constants["VAL_RECEPTACLE_OBJECTS"].items())
            if receptacle not in movable
        },
        "objects_by_property": {
            name.lower(): without_sliced(objects) for name, objects in sorted(constants["VAL_ACTION_OBJECTS"].items())
        },
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
