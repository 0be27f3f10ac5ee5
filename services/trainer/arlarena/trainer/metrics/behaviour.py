"""Behaviour in episodes: repeated actions, idle turns, moves back and forth, and transitions between actions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from arlarena.proto.trajectory import Group, Trajectory, Turn

# Transitions listed for successful and for failed episodes; the remaining ones are summed as `other`.
FLOWS = 24


def behaviour_figures(groups: Sequence[Group]) -> dict[str, float]:
    """Shares of turns and mean lengths of episodes; 0 if there are no such turns or episodes.

    `repeated_actions`: the same action as in the turn before. `idle_turns`: the same state as in the turn before.
    `back_and_forth`: the same state as two turns before, with another state between. `steps_to_success`,
    `steps_to_failure`: mean number of turns of successful and of failed episodes.
    """
    episodes = [trajectory.turns for group in groups for trajectory in group.trajectories]
    pairs = [pair for turns in episodes for pair in pairwise(turns)]
    triples = [triple for turns in episodes for triple in zip(turns, turns[1:], turns[2:], strict=False)]
    return {
        "repeated_actions": _share(before.action == after.action for before, after in pairs),
        "idle_turns": _share(_same(before, after) for before, after in pairs),
        "back_and_forth": _share(_same(a, c) and not _same(a, b) for a, b, c in triples),
        "steps_to_success": _length(groups, success=True),
        "steps_to_failure": _length(groups, success=False),
    }


def action_flows(groups: Sequence[Group]) -> dict[str, dict[str, float]]:
    """The share of each transition `first>second` between consecutive actions, for successful and failed episodes.

    An action is represented by its first word (`go` for `go to fridge 1`), or by `-` if it is invalid.
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


def _same(before: Turn, after: Turn) -> bool:
    return bool(before.state_key) and before.state_key == after.state_key


def _share(values: Iterable[bool]) -> float:
    flags = list(values)
    return sum(flags) / len(flags) if flags else 0.0


def _length(groups: Sequence[Group], *, success: bool) -> float:
    lengths = [len(trajectory.turns) for trajectory in _episodes(groups, success=success)]
    return sum(lengths) / len(lengths) if lengths else 0.0
