"""What any method would make of recorded groups, offline: `arlarena replay GROUPS --model DIR --recipe sampo`.

One step's forward and backward without an optimiser step, over all groups that the method's filter keeps. The figures
are those that a run would have written to metrics.jsonl, so a method can be judged on the very data that another one
collected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arlarena.proto.config import ConfigError
from arlarena.proto.trajectory import Group, SchemaError, read_groups
from arlarena.trainer.diagnostics import episode_figures
from arlarena.trainer.learner import Learner
from arlarena.trainer.model import load_policy
from arlarena.trainer.objectives import Recipe
from arlarena.trainer.objectives.cells import CELLS
from arlarena.trainer.objectives.filtering import FILTERS
from arlarena.trainer.scoring import Freshness, returns, rows_of, score, successes
from arlarena.trainer.settings import TrainerSettings

SHOWN = (
    "groups", "groups_kept", "void_share", "rows", "loss", "policy_loss", "grad_norm", "ratio_mean", "ratio_min",
    "ratio_max", "outside", "clip_negative_low", "clip_positive_high", "rows_masked", "off_policy_kl", "reference_kl",
    "entropy", "mismatch_k3",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Replayed:
    """What one method made of the groups; `figures` by the names of metrics.jsonl."""

    recipe: str
    figures: dict[str, float]


def load_groups(path: Path) -> list[Group]:
    """The groups of a file.

    Raises:
        ConfigError: there is no such file, it is none of ours, or it is empty.
    """
    try:
        groups = read_groups(path)
    except (OSError, SchemaError) as error:
        raise ConfigError(f"groups {path}: {error}") from error
    if not groups:
        raise ConfigError(f"groups {path}: the file holds no group")
    return groups


def replay(groups: Sequence[Group], model: str, recipe: Recipe, settings: TrainerSettings) -> Replayed:
    """The figures of one step of `recipe` on `groups` by the policy `model`, which is also the reference.

    The behaviour policy is whoever sampled the groups; every member counts as fresh.
    """
    useful = [group for group in groups if FILTERS[recipe.filter](returns(group), successes(group))]
    digests = {span.version.digest for g in groups for t in g.trajectories for turn in t.turns for span in turn.spans}
    everybody = Freshness(0, 0, dict.fromkeys(digests, 0))
    learner = Learner(load_policy(model), None, recipe, settings)
    scored = score(
        recipe,
        useful,
        everybody,
        invalid_penalty=settings.invalid_penalty,
        max_response_tokens=settings.max_response_tokens,
        measure=learner.mean_entropies,
        void_turns=settings.void_turns,
        growing=settings.rows == "episodes",
    )
    current = next(iter(digests)) if len(digests) == 1 else ""
    rows = rows_of(scored, current, settings.advantage_scale, growing=settings.rows == "episodes")
    figures = {"groups": float(len(groups)), "groups_kept": float(len(useful)), "rows": float(len(rows))}
    figures["void_share"] = episode_figures(useful)["void_share"]
    # A rate of 0 moves no weight, neither by the gradient nor by the decay.
    figures |= learner.update([rows] if rows else [], rate=0.0)
    return Replayed(recipe.name, figures)


def table(found: Sequence[Replayed]) -> str:
    """The figures side by side, one column a method, and the share of KL by cell."""
    names = [name for name in SHOWN if any(name in one.figures for one in found)]
    names += [f"kl_share/{cell}" for cell in CELLS if any(f"kl_share/{cell}" in one.figures for one in found)]
    width = max(map(len, names))
    columns = [max(12, len(one.recipe)) for one in found]
    lines = [" " * width + "".join(f"  {one.recipe:>{size}}" for one, size in zip(found, columns, strict=True))]
    for name in names:
        cells = [f"{one.figures[name]:.6g}" if name in one.figures else "-" for one in found]
        lines.append(
            f"{name:<{width}}" + "".join(f"  {cell:>{size}}" for cell, size in zip(cells, columns, strict=True))
        )
    return "\n".join(lines)
