"""Golden transcripts of the environments. As a command, writes missing transcripts:

    PYTHONPATH=tests .venv/bin/python -m support.environments.golden_transcripts

The transcript of a version of an environment must not change. If rules, rooms or templates change, the environment
needs a new version, which has a new file. The command does not overwrite existing files.
"""

import json
from pathlib import Path

import msgspec

from arlarena.environment.protocols import Resources
from arlarena.environment.registry import installed, load
from arlarena.proto.env_api import ResetSpec

FOLDER = Path(__file__).resolve().parents[2] / "data" / "golden" / "transcripts"
REPLIES = (
    "up",
    "<think>x</think><action>left</action>",
    "50",
    "?",
    "<action>25</action>",
    "down",
    "right",
    "RIGHT",
    "75",
)
OWN_REPLIES = {
    "tir_math": (
        "```python\nimport sympy\nprint(sympy.primepi(100), 2**64)\n```",
        "no program and no answer",
        "Let me try.\n```python\nprint(1)\nprint(1 / 0)\n```\nand so on",
        "```python\nimport socket\nsocket.socket()\n```",
        "<think>\\boxed{1}</think>The answer is \\boxed{\\frac{1}{2}}.",
    ),
    "webshop": (
        "<think>x</think><action>search[tea]</action>",
        "click[next >]",
        "<action>click[buy now]</action>",
        "<action>click[< prev]</action>",
        "<action>click[b03n8lhks5]</action>",
        "<action>click[features]</action>",
        "<action>click[< prev]</action>",
        "<action>click[4 fl oz]</action>",
        "<action>SEARCH[tea]</action>",
        "<action>click[buy now]</action>",
    ),
}


def path_of(environment):
    """Return the file for the current versions of an environment, its template and its parser."""
    info = environment.info
    versions = (info.name, info.version, f"{info.template.name}{info.template.version}", f"parser{info.parser.version}")
    return FOLDER / ("-".join(versions) + ".json")


def transcripts(environment):
    """Play a scripted episode of each split. Return task id → all results in the format of the API."""
    found = {}
    for split in environment.info.splits:
        episode = environment.start(environment.task(ResetSpec(split=split.name, index=3)))
        said = [episode.observe()]
        for reply in OWN_REPLIES.get(environment.info.name, REPLIES):
            if not episode.done:
                said.append(episode.step(reply))
        found[episode.task.id] = [json.loads(msgspec.json.encode(result)) for result in said]
    if isinstance(environment, Resources):
        environment.close()
    return found


def main():
    """Write missing transcripts."""
    for name in installed():
        environment = load("golden", name, {})
        path = path_of(environment)
        if path.exists():
            print(f"kept  {path.name}")
            continue
        path.write_text(json.dumps(transcripts(environment), indent=1, ensure_ascii=False) + "\n")
        print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
