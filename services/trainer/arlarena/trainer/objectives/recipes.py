"""Every named method as one row of choices over the four dimensions.

`recipe("sampo", clip_low=0.03)` takes a row and changes a choice. To add a method, add a row to the table below; to
add a choice, add a function to its dimension's file and to the dictionary there. KL, entropy bonus, penalties and cold
start belong to the run, not to the method.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from arlarena.trainer.objectives.advantages import (
    ADVANTAGES,
    STAT_UNITS,
    AdvantageConfig,
    GroupAdvantages,
    GroupRewards,
)
from arlarena.trainer.objectives.aggregation import AGGREGATIONS
from arlarena.trainer.objectives.clipping import CLIPS, CLIPS_WITHOUT_RATIO, LITERAL_CLIPS, RATIO_LEVELS, ClipConfig
from arlarena.trainer.objectives.filtering import FILTERS


class RecipeError(ValueError):
    """A recipe that cannot be built, or one that is dead in the run it was asked for."""


# Lower bound of numbers that must be above 0, because 0 would be divided by or make the part dead.
_ABOVE_ZERO = math.ulp(0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One policy-gradient method. Field order follows the dimensions; `ClipConfig` and `AdvantageConfig` explain numbers.

    Attributes:
        length_norm: L_max of `seq_mean_token_sum_norm`, tokens.
        mask_delta: δ of the sequence mask, nats.
        max_tries: rounds of sampling before back-fill; `backfill`: whether uniform groups then fill the batch.
        overlong: DAPO's overlong shaping, on the run's `max_response_tokens`.

    Raises:
        RecipeError: an unknown choice or a number out of range; the message names the field and the nearest choice.
    """

    name: str
    aggregation: str = "token_mean"
    length_norm: float = 512.0
    clip: str = "ppo"
    ratio_level: str = "token"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    tau_positive: float = 1.0
    tau_negative: float = 1.05
    mask: str = "none"
    mask_delta: float = 3e-3
    advantage: str = "grpo"
    stat_unit: str = "row"
    scale: str = "std"
    step_scale: str = "std"
    omega: float = 1.0
    gamma: float = 0.95
    anchor: str = "state"
    similarity: float = 0.95
    entropy_k: float = 1.0
    entropy_k_next: float = 1.0
    entropy_zeta: float = 0.05
    overlong: bool = False
    filter: str = "none"
    max_tries: int = 3
    backfill: bool = True

    def __post_init__(self) -> None:
        """Check every choice and every number."""
        for key, names in _CHOICES.items():
            if getattr(self, key) not in tuple(names):
                raise RecipeError(f"{self.name}.{key} = {getattr(self, key)!r}: {_nearest(getattr(self, key), names)}")
        for key, (low, high) in _RANGES.items():
            _check_number(f"{self.name}.{key}", getattr(self, key), low, high)
        for key in ("overlong", "backfill"):
            if not isinstance(getattr(self, key), bool):
                raise RecipeError(f"{self.name}.{key} = {getattr(self, key)!r} must be true or false")
        if not isinstance(self.max_tries, int) or isinstance(self.max_tries, bool) or self.max_tries < 1:
            raise RecipeError(f"{self.name}.max_tries = {self.max_tries!r} must be a whole number, at least 1")
        if self.literal and self.ratio_level == "token":
            raise RecipeError(
                f"{self.name}: clip {self.clip!r} shares a ratio over a turn, row or trajectory, not a token"
            )
        self._check_dual_clip()

    def _check_dual_clip(self) -> None:
        if self.dual_clip is None:
            return
        _check_number(f"{self.name}.dual_clip", self.dual_clip, 1.0, math.inf)
        if self.clip != "ppo":
            raise RecipeError(f"{self.name}.dual_clip is set, but clip {self.clip!r} has none; only 'ppo' reads it")

    @property
    def literal(self) -> bool:
        """Whether one differentiable ratio is shared by a whole unit (ablation)."""
        return self.clip in LITERAL_CLIPS

    def clip_config(self) -> ClipConfig:
        """The numbers of the clip."""
        return ClipConfig(
            low=self.clip_low,
            high=self.clip_high,
            dual=self.dual_clip,
            tau_positive=self.tau_positive,
            tau_negative=self.tau_negative,
        )

    def advantage_config(
        self, *, invalid_penalty: float = 0.1, max_response_tokens: int | None = None
    ) -> AdvantageConfig:
        """The numbers of the advantage, with those that belong to the run."""
        if self.overlong and (max_response_tokens is None or max_response_tokens < 1):
            raise RecipeError(
                f"{self.name} shapes overlong responses and needs the run's max_response_tokens, at least 1; "
                f"got {max_response_tokens!r}"
            )
        shared = {f.name for f in fields(AdvantageConfig)} & {f.name for f in fields(self)}
        return AdvantageConfig(
            **{key: getattr(self, key) for key in shared},
            invalid_penalty=invalid_penalty,
            overlong_tokens=max_response_tokens if self.overlong else None,
        )


_CHOICES: Mapping[str, Iterable[str]] = {
    "aggregation": AGGREGATIONS,
    "clip": CLIPS,
    "ratio_level": RATIO_LEVELS,
    "mask": ("none", "sequence"),
    "advantage": ADVANTAGES,
    "stat_unit": STAT_UNITS,
    "scale": ("std", "none"),
    "step_scale": ("std", "none"),
    "anchor": ("state", "observation", "similar"),
    "filter": FILTERS,
}
_RANGES: Mapping[str, tuple[float, float]] = {
    "length_norm": (_ABOVE_ZERO, math.inf),
    "clip_low": (_ABOVE_ZERO, 1.0),
    "clip_high": (_ABOVE_ZERO, math.inf),
    "tau_positive": (_ABOVE_ZERO, math.inf),
    "tau_negative": (_ABOVE_ZERO, math.inf),
    "mask_delta": (0.0, math.inf),
    "omega": (0.0, math.inf),
    "gamma": (0.0, 1.0),
    "similarity": (0.0, 1.0),
    "entropy_k": (0.0, math.inf),
    "entropy_k_next": (0.0, math.inf),
    "entropy_zeta": (0.0, math.inf),
}


def _check_number(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RecipeError(f"{name} = {value!r} must be a finite number")
    if not low <= value <= high:
        bound = "above 0" if low == _ABOVE_ZERO else f"at least {low:g}"
        limit = "" if math.isinf(high) else f" and at most {high:g}"
        raise RecipeError(f"{name} = {value!r} must be {bound}{limit}")


def _nearest(given: object, names: Iterable[str]) -> str:
    names = list(names)
    close = difflib.get_close_matches(str(given), names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else f"one of {', '.join(names)}"


def _table(*rows: Recipe) -> Mapping[str, Recipe]:
    return MappingProxyType({row.name: row for row in rows})


# ε of a ratio that is a geometric mean over hundreds of tokens: it moves far less than a single token's.
_GSPO: dict[str, Any] = {"clip": "gspo", "clip_low": 3e-3, "clip_high": 4e-3}
_AS_RELEASED: dict[str, Any] = {"aggregation": "seq_mean_token_mean", "ratio_level": "row", "stat_unit": "row"}
_CISPO: dict[str, Any] = {"clip": "cispo", "clip_low": 1.0, "clip_high": 0.2}
_DAPO: dict[str, Any] = {"filter": "return", "max_tries": 2, "overlong": True}

RECIPES: Mapping[str, Recipe] = _table(
    Recipe(name="grpo"),
    Recipe(name="grpo_st", aggregation="seq_mean_token_mean"),
    Recipe(name="grpo_sm", mask="sequence"),
    Recipe(name="gspo", ratio_level="trajectory", **_GSPO),
    Recipe(name="gspo_release", **_AS_RELEASED, **_GSPO),
    Recipe(name="cispo", **_CISPO),
    Recipe(name="cispo_sm", mask="sequence", **_CISPO),
    Recipe(name="sapo", clip="sapo"),
    Recipe(name="sapo_sm", clip="sapo", mask="sequence"),
    Recipe(name="gigpo", advantage="gigpo"),
    Recipe(name="empg", advantage="empg"),
    Recipe(name="dapo_grpo", **_DAPO),
    Recipe(name="dapo_gigpo", advantage="gigpo", **_DAPO),
    Recipe(name="sampo", ratio_level="trajectory", advantage="gigpo", filter="success", **_GSPO),
    Recipe(name="sampo_release", advantage="gigpo", filter="return", **_AS_RELEASED, **_GSPO),
    # As their papers: one response is one episode there, so statistics are over trajectories.
    Recipe(name="rloo", advantage="rloo", aggregation="seq_mean_token_sum", clip="reinforce", stat_unit="trajectory"),
    Recipe(name="reinforce_pp", advantage="reinforce_pp", stat_unit="trajectory"),
    Recipe(name="dr_grpo", aggregation="seq_mean_token_sum_norm", stat_unit="trajectory", scale="none"),
    # Ablations: s_i shared literally, which averages the advantages of a trajectory's turns.
    Recipe(name="gspo_literal", ratio_level="trajectory", **{**_GSPO, "clip": "gspo_literal"}),
    Recipe(
        name="sampo_literal",
        ratio_level="trajectory",
        advantage="gigpo",
        filter="success",
        **{**_GSPO, "clip": "gspo_literal"},
    ),
)


def recipe(name: str, /, **overrides: Any) -> Recipe:
    """The named row with `overrides` in place of its choices.

    Raises:
        RecipeError: unknown name or key (the message gives the nearest), or a value that `Recipe` refuses.
    """
    if name not in RECIPES:
        raise RecipeError(f"unknown recipe {name!r}: {_nearest(name, RECIPES)}")
    known = [f.name for f in fields(Recipe) if f.name != "name"]
    for key in overrides:
        if key not in known:
            raise RecipeError(f"recipe {name!r} has no choice {key!r}: {_nearest(key, known)}")
    return replace(RECIPES[name], **overrides)


def compute_advantages(
    recipe: Recipe,
    groups: Sequence[GroupRewards],
    *,
    invalid_penalty: float = 0.1,
    max_response_tokens: int | None = None,
) -> list[GroupAdvantages]:
    """Advantages of all groups of one batch: whole groups, before any stale member is dropped.

    Args:
        recipe: names the estimator and its numbers.
        groups: all groups of the optimiser step; EMPG and REINFORCE++ take statistics over them together.
        invalid_penalty: taken from a row whose action was invalid or badly formatted; 0 turns it off.
        max_response_tokens: the sampling limit of a response, for recipes with overlong shaping.
    """
    config = recipe.advantage_config(invalid_penalty=invalid_penalty, max_response_tokens=max_response_tokens)
    return ADVANTAGES[recipe.advantage](groups, config)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """What a run does, as far as it decides whether a recipe can work in it.

    Attributes:
        updates_per_batch: optimiser steps on one batch of groups.
        policy_anchor: `bypass`, the ratio is taken against the sampler's log-probabilities; `decoupled`, against the
            trainer's own forward at the start of the step.
        group_size: G.
    """

    updates_per_batch: int
    policy_anchor: str
    group_size: int

    def __post_init__(self) -> None:
        """Check the names and counts."""
        if self.policy_anchor not in ("bypass", "decoupled"):
            raise RecipeError(
                f"policy_anchor = {self.policy_anchor!r}: {_nearest(self.policy_anchor, ('bypass', 'decoupled'))}"
            )
        if self.updates_per_batch < 1 or self.group_size < 1:
            raise RecipeError(f"the updates of a batch and the members of a group start at 1, got {self}")


def check(recipe: Recipe, run: RunContext) -> tuple[str, ...]:
    """Refuse a combination that provably cannot do what it says; return warnings about those that hardly can.

    Raises:
        RecipeError: the clip or the mask can never act, or every advantage is 0. The message gives reason and cures.
    """
    _refuse_lone_members(recipe, run)
    ratio_free = recipe.clip in CLIPS_WITHOUT_RATIO
    if run.updates_per_batch > 1:
        return (_uncorrected(recipe, run),) if ratio_free else ()
    if run.policy_anchor == "decoupled":
        if not ratio_free:
            raise RecipeError(
                f"{recipe.name}: clipping is dead. With one optimiser step a batch and π_old recomputed at its start, "
                f"every ratio is exactly 1 and clip {recipe.clip!r} never acts. Set minibatch_groups to half of "
                f"groups_per_step or less, or policy_anchor = 'bypass', or clip = 'reinforce'."
            )
        if recipe.mask == "sequence":
            raise RecipeError(
                f"{recipe.name}: the sequence mask is dead. With one optimiser step a batch and π_old recomputed at "
                f"its start, no row has moved. Set minibatch_groups to half of groups_per_step or less, or mask = "
                f"'none'."
            )
        return ()
    if ratio_free and recipe.mask == "none":
        return ()
    return (
        f"{recipe.name}: with one optimiser step a batch the ratio differs from 1 only by staleness and by the "
        f"mismatch of sampler and trainer; clipping will rarely act on fresh groups.",
    )


def _uncorrected(recipe: Recipe, run: RunContext) -> str:
    return (
        f"{recipe.name}: clip {recipe.clip!r} has no ratio, so {run.updates_per_batch} updates a batch train on "
        f"samples of a policy that the first update has already left, and nothing corrects or bounds the "
        f"difference. Take one update a batch (minibatch_groups as large as groups_per_step), or a clip with a ratio, "
        f"such as 'ppo' or 'cispo'."
    )


def _refuse_lone_members(recipe: Recipe, run: RunContext) -> None:
    """A group of one has nothing to be compared with; only statistics over the whole batch are a baseline then."""
    if run.group_size > 1:
        return
    cure = "set group_size to 2 or more, or take recipe = 'reinforce_pp', which compares with the whole batch"
    if recipe.filter != "none":
        raise RecipeError(f"{recipe.name}: filter {recipe.filter!r} drops every group with group_size = 1; {cure}")
    if recipe.advantage != "reinforce_pp":
        raise RecipeError(
            f"{recipe.name}: advantage {recipe.advantage!r} compares the episodes of a group, and with group_size = 1 "
            f"there is no baseline; {cure}"
        )
