"""Writes the digests of the standard evaluation sets, and the page docs/reference/evaluation-sets.md.

.venv/bin/python -m scripts.evaluation_sets                     all sets that need no official data
.venv/bin/python -m scripts.evaluation_sets --set sokoban-v1    one set; the others keep their digests
.venv/bin/python -m scripts.evaluation_sets --set alfworld-official-unseen-v1 --options '{"games": "/data/alfworld"}'
.venv/bin/python -m scripts.evaluation_sets --check             exit with 1 if the page is out of date

To compute the digest of a set, the script starts the environment server of the set and resets all tasks. Without
`--set`, the digests of sets that need official data do not change.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.generated_pages import write_or_check

from arlarena.proto.atomic_files import write_json
from arlarena.proto.telemetry import get_logger
from arlarena.rollout.evaluation.served import configured_process, connected_runner
from arlarena.rollout.evaluation.sets.standard import (
    PINS,
    Pin,
    StandardSet,
    describe_sets,
    play_set,
    published_pins,
    set_options,
    standard_sets,
)
from arlarena.rollout.settings import RolloutSettings

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "evaluation-sets.md"
PINNED = ROOT / "services" / "rollout" / "arlarena" / "rollout" / "evaluation" / "sets" / PINS
HEAD = """\
# Standard evaluation sets

`arlarena eval MODEL --set sokoban-v1` plays a standard evaluation set: a fixed list of tasks with fixed options of the
environment. Before the first request to the model, the command resets all tasks and computes their *digest*: a hash of
the ids and contents of all tasks. The evaluation starts only if this digest is equal to the digest in the table of this
page. The name of a set therefore means the same tasks for everyone, on every machine and with any number of server
processes.

Some options are free, because they do not change the tasks or the rules. Examples are the prompt template, the history,
and the form of observations. The plan of the evaluation (`plan.json`) records the free options. If you change an option
that is not free, the command stops with an error that names the option.

A set of official tasks has a digest only if the official data was present when this page was written.
`scripts/evaluation_sets.py` writes this page. [Environments](environments.md) describes the options.

"""


async def pin(standard: StandardSet, options: Mapping[str, Any]) -> Pin:
    """Return the version, options and digest (`Pin`) of a standard evaluation set.

    Starts the set's environment server, and resets all tasks of the set. `options`: paths of official data.
    """
    async with (
        configured_process(standard.environment, set_options(standard, options)) as url,
        connected_runner(url, RolloutSettings(), None, get_logger("sets")) as runner,
    ):
        return (await play_set(runner, standard)).pin


def main() -> int:
    """Compute digests, and write them and the page. With `--check`, only check the page. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", dest="name", choices=standard_sets(), help="compute the digest of only this set")
    parser.add_argument(
        "--options", type=json.loads, default={}, help="options of the environment with the paths of data, as JSON"
    )
    parser.add_argument("--check", action="store_true", help="only compare the page with the published digests")
    args = parser.parse_args()
    pins, sets = published_pins(), standard_sets()
    if not args.check:
        for standard in sets.values():
            if standard.name == args.name or (args.name is None and not standard.needs):
                pins[standard.name] = asyncio.run(pin(standard, args.options))
                print(f"{standard.name}: {pins[standard.name].digest}", flush=True)
        write_json(PINNED, {name: pins[name] for name in sets if name in pins})
    return write_or_check({PAGE: HEAD + describe_sets(pins, list(sets.values()))})


if __name__ == "__main__":
    sys.exit(main())
