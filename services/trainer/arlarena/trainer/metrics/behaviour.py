"""Behaviour in episodes: repeated actions, idle turns, moves back and forth, and transitions between actions.

An idle turn does not change the state of the environment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from arlarena.proto.trajectory import Group, Trajectory, Turn

# Maximum number of listed transitions of successful episodes, and of failed episodes. `other` is the share of all other
# transitions.
FLOWS = 24


def behaviour_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Return shares of turns and mean lengths of episodes. Without turns or episodes, the value is 0.

    Three metrics are shares of all turns: repeated actions, turns that do not change the state, and moves back to the
    previous state. The rollout service counts these turns in `Trajectory.metrics`. `steps_to_success` is the mean
    number of turns of successful episodes, and `steps_to_failure` the mean number of turns of failed episodes.
    """
    episodes = [trajectory for group in groups for trajectory in group.trajectories]
    turns = sum(len(episode.turns) for episode in episodes)

    def share(count: str) -> float:
        return sum(episode.metrics.get(count, 0.0) for episode in episodes) / turns if turns else 0.0

    return {
        "repeated_actions": share("repeated_actions"),
        "idle_turns": share("idle_turns"),
        "back_and_forth": share("back_and_forth"),
        "steps_to_success": _mean_turns(groups, success=True),
        "steps_to_failure": _mean_turns(groups, success=False),
    }


def action_flows(groups: Sequence[Group]) -> dict[str, dict[str, float]]:
    """Return how often one action follows another, as the share of each pair `first>second` of consecutive actions.

    The result has one table for successful episodes (`success`), and one for failed episodes (`failure`). A table has
    at most `FLOWS` pairs; `other` is the share of all other pairs. An action is represented by its first word (`go` for
    `go to fridge 1`), or by `-` if the action is invalid.
    """
    flows = {}
    for name, success in (("success", True), ("failure", False)):
        counts = Counter(
            f"{_first_word(before)}>{_first_word(after)}"
            for trajectory in _episodes(groups, success=success)
            for before, after in pairwise(trajectory.turns)
        )
        total = sum(counts.values())
        shown = {flow: count / total for flow, count in counts.most_common(FLOWS)}
        rest = 1.0 - sum(shown.values()) if total else 0.0
        flows[name] = shown | ({"other": rest} if rest > 1e-9 else {})
    return flows


def _episodes(groups: Sequence[Group], *, success: bool) -> list[Trajectory]:
    return [each for group in groups for each in group.trajectories if each.success == success]


def _first_word(turn: Turn) -> str:
    words = turn.action.split() if turn.action_valid else []
    return words[0] if words else "-"


def _mean_turns(groups: Sequence[Group], *, success: bool) -> float:
    lengths = [len(trajectory.turns) for trajectory in _episodes(groups, success=success)]
    return sum(lengths) / len(lengths) if lengths else 0.0
