"""Behaviour in episodes: repeated actions, idle turns, moves back and forth, and transitions between actions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from arlarena.proto.trajectory import Group, Trajectory, Turn

# Number of transitions that are listed for successful and for failed episodes. `other` sums the remaining transitions.
FLOWS = 24


def behaviour_figures(groups: Sequence[Group]) -> dict[str, float]:
    """Return shares of turns and mean lengths of episodes. A figure is 0 if there are no such turns or episodes.

    The rollout service counts repeated actions, idle turns and moves back to the previous state in
    `Trajectory.metrics`. `steps_to_success` is the mean number of turns of successful episodes, and `steps_to_failure`
    the mean number of turns of failed episodes.
    """
    episodes = [trajectory for group in groups for trajectory in group.trajectories]
    turns = sum(len(episode.turns) for episode in episodes)

    def share(count: str) -> float:
        return sum(episode.metrics.get(count, 0.0) for episode in episodes) / turns if turns else 0.0

    return {
        "repeated_actions": share("repeated_actions"),
        "idle_turns": share("idle_turns"),
        "back_and_forth": share("back_and_forth"),
        "steps_to_success": _length(groups, success=True),
        "steps_to_failure": _length(groups, success=False),
    }


def action_flows(groups: Sequence[Group]) -> dict[str, dict[str, float]]:
    """Return the share of each transition `first>second` between consecutive actions.

    Successful episodes (`success`) and failed episodes (`failure`) are counted separately. An action is represented by
    its first word (`go` for `go to fridge 1`), or by `-` if the action is invalid.
    """
    flows = {}
    for name, success in (("success", True), ("failure", False)):
        counts = Counter(
            f"{_kind(before)}>{_kind(after)}"
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


def _kind(turn: Turn) -> str:
    words = turn.action.split() if turn.action_valid else []
    return words[0] if words else "-"


def _length(groups: Sequence[Group], *, success: bool) -> float:
    lengths = [len(trajectory.turns) for trajectory in _episodes(groups, success=success)]
    return sum(lengths) / len(lengths) if lengths else 0.0
