"""Defines the named methods (recipes). A recipe has one choice for each dimension, and hyperparameters.

`recipe("sampo", clip_low=0.03)` returns a named recipe with one value changed. `register_recipe` adds a recipe. The
`register_…` function of a dimension adds a choice. A plugin may call these functions (see `registry`). KL term,
entropy bonus, penalties and cold start are settings of the run, not of the method.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from arlarena.trainer.objectives.advantage_types import STAT_UNITS, AdvantageConfig, GroupAdvantages, GroupRewards
from arlarena.trainer.objectives.advantages import ADVANTAGES
from arlarena.trainer.objectives.aggregation import AGGREGATIONS
from arlarena.trainer.objectives.clipping import CLIPS, RATIO_LEVELS, ClipConfig
from arlarena.trainer.objectives.filtering import FILTERS
from arlarena.trainer.objectives.hyperparameters import check_hyperparameters, hyperparameter, hyperparameters
from arlarena.trainer.objectives.registry import RecipeError, Registry, nearest


def _option(default: str | bool | int, description: str, values: Iterable[str] = ()) -> Any:
    """Declare a field of `Recipe` that is not a hyperparameter. `values`: the allowed names; empty: any value."""
    return field(default=default, metadata={"description": description, "values": values})


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One policy-gradient method. `AdvantageConfig` explains the fields from `stat_unit` to `entropy_zeta`.

    Attributes:
        clip_options: hyperparameters of the clip (declared by `Clip.config`) that differ from the defaults.

    Raises:
        RecipeError: a choice is unknown, or a number is out of range. The message names the field and similar choices.
    """

    name: str
    aggregation: str = _option("token_mean", "rule for the weight of each token in the loss", AGGREGATIONS)
    length_norm: float = hyperparameter(512.0, "constant divisor of seq_mean_token_sum_norm, in tokens", above=0)
    clip: str = _option("ppo", "rule for the loss of a token, given its importance ratio", CLIPS)
    ratio_level: str = _option("token", "unit in which all tokens share one importance ratio", RATIO_LEVELS)
    clip_options: Mapping[str, float | None] = field(default_factory=dict)
    mask: str = _option(
        "none",
        "sequence: drop a row if its advantage is negative and its mean log-prob fell by more than mask_delta",
        ("none", "sequence"),
    )
    mask_delta: float = hyperparameter(
        3e-3, "δ of the sequence mask: largest accepted fall of a row's mean log-prob, in nats", at_least=0
    )
    advantage: str = _option("grpo", "estimator of the advantages", ADVANTAGES)
    stat_unit: str = _option("row", "unit that contributes one value to the mean and std of returns", STAT_UNITS)
    scale: str = _option("std", "divisor of the advantage's episode part", ("std", "none"))
    step_scale: str = _option("std", "divisor of the advantage's step part", ("std", "none"))
    omega: float = hyperparameter(1.0, "weight of the advantage's step part", at_least=0)
    gamma: float = hyperparameter(0.95, "discount factor of step returns", at_least=0, at_most=1)
    anchor: str = _option(
        "state",
        "key of a turn; gigpo compares the turns of a group that have the same key",
        ("state", "observation", "similar"),
    )
    similarity: float = hyperparameter(
        0.95, "minimum similarity of observations for anchor = similar", at_least=0, at_most=1
    )
    entropy_k: float = hyperparameter(1.0, "k of EMPG: weakens advantages of turns with high entropy", at_least=0)
    entropy_k_next: float = hyperparameter(
        1.0, "k' of EMPG: reduces the bonus of a turn if the next turn has high entropy", at_least=0
    )
    entropy_zeta: float = hyperparameter(0.05, "ζ of EMPG: weight of the bonus for the next turn", at_least=0)
    overlong: bool = _option(False, "DAPO's penalty for responses near max_response_tokens")
    filter: str = _option("none", "rule that selects the groups to train on", FILTERS)
    max_tries: int = _option(3, "the filter checks at most max_tries · groups_per_step groups for a batch")
    backfill: bool = _option(True, "fill an incomplete batch with the newest dropped groups")

    def __post_init__(self) -> None:
        """Check every choice and every number."""
        for each in fields(self):
            value, names = getattr(self, each.name), tuple(each.metadata.get("values", ()))
            if names and value not in names:
                raise RecipeError(f"{self.name}.{each.name} = {value!r}: {nearest(value, names)}")
        check_hyperparameters(self.name, self)
        for key in ("overlong", "backfill"):
            if not isinstance(getattr(self, key), bool):
                raise RecipeError(f"{self.name}.{key} = {getattr(self, key)!r} must be true or false")
        if not isinstance(self.max_tries, int) or isinstance(self.max_tries, bool) or self.max_tries < 1:
            raise RecipeError(f"{self.name}.max_tries = {self.max_tries!r} must be a whole number, at least 1")
        if self.literal and self.ratio_level == "token":
            raise RecipeError(
                f"{self.name}: clip {self.clip!r} needs ratio_level = 'turn', 'row' or 'trajectory', not 'token'"
            )
        self._check_clip_options()

    def _check_clip_options(self) -> None:
        own, known = hyperparameters(CLIPS[self.clip].config), choices()
        if twice := own.keys() & {*known, "name"}:
            raise RecipeError(
                f"clip {self.clip!r}: every recipe already has a field {min(twice)!r}; give the clip's hyperparameter "
                f"another name"
            )
        for key in self.clip_options:
            if key in own:
                continue
            if readers := [name for name, clip in CLIPS.items() if key in hyperparameters(clip.config)]:
                raise RecipeError(
                    f"{self.name}.{key} is set, but clip {self.clip!r} has no hyperparameter {key!r}; clips with this "
                    f"hyperparameter: {', '.join(map(repr, readers))}"
                )
            raise RecipeError(
                f"recipe {self.name!r} has no choice {key!r}: {nearest(key, [*known, *own])} "
                f"(hyperparameters of its clip {self.clip!r}: {', '.join(own) or 'none'})"
            )
        check_hyperparameters(self.name, self.clip_config)

    @property
    def literal(self) -> bool:
        """Whether all tokens of a turn, row or trajectory share one differentiable ratio."""
        return CLIPS[self.clip].literal

    @property
    def clip_config(self) -> ClipConfig:
        """The hyperparameters of the clip, as an instance of `Clip.config`."""
        return CLIPS[self.clip].config(**self.clip_options)  # type: ignore[arg-type]

    def advantage_config(
        self, *, invalid_penalty: float = 0.1, max_response_tokens: int | None = None
    ) -> AdvantageConfig:
        """Return the hyperparameters of the advantage. The arguments are settings of the run.

        Raises:
            RecipeError: the recipe has overlong shaping, but `max_response_tokens` is not given or is below 1.
        """
        if self.overlong and (max_response_tokens is None or max_response_tokens < 1):
            raise RecipeError(
                f"{self.name} has overlong shaping and needs max_response_tokens of at least 1; "
                f"got {max_response_tokens!r}"
            )
        shared = {f.name for f in fields(AdvantageConfig)} & {f.name for f in fields(self)}
        return AdvantageConfig(
            **{key: getattr(self, key) for key in shared},
            invalid_penalty=invalid_penalty,
            overlong_tokens=max_response_tokens if self.overlong else None,
        )


def choices() -> list[str]:
    """Return the names of the fields that every recipe has, without `name` and `clip_options`."""
    return [each.name for each in fields(Recipe) if each.name not in ("name", "clip_options")]


RECIPES: Registry[Recipe] = Registry("recipe")


def register_recipe(recipe: Recipe) -> Recipe:
    """Register a recipe by its name. Returns the recipe.

    Raises:
        RecipeError: the name is taken, or is not a Python identifier.
    """
    RECIPES.add(recipe.name, recipe)
    return recipe


# GSPO's ε are small, because a geometric mean over hundreds of tokens changes far less than the ratio of one token.
_GSPO: dict[str, Any] = {"clip": "gspo", "clip_options": {"clip_low": 3e-3, "clip_high": 4e-3}}
# The choices of the code released with ARLArena.
_AS_RELEASED: dict[str, Any] = {"aggregation": "seq_mean_token_mean", "ratio_level": "row", "stat_unit": "row"}
_CISPO: dict[str, Any] = {"clip": "cispo", "clip_options": {"clip_low": 1.0, "clip_high": 0.2}}
_DAPO: dict[str, Any] = {"filter": "return", "max_tries": 2, "overlong": True}

for _recipe in (
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
    # In the papers of these three methods an episode is one response, so mean and std are over trajectories.
    Recipe(name="rloo", advantage="rloo", aggregation="seq_mean_token_sum", clip="reinforce", stat_unit="trajectory"),
    Recipe(name="reinforce_pp", advantage="reinforce_pp", stat_unit="trajectory"),
    Recipe(name="dr_grpo", aggregation="seq_mean_token_sum_norm", stat_unit="trajectory", scale="none"),
    # Ablations: the gradient flows through the ratio, so each token gets the mean advantage of its trajectory.
    Recipe(name="gspo_literal", ratio_level="trajectory", **{**_GSPO, "clip": "gspo_literal"}),
    Recipe(
        name="sampo_literal",
        ratio_level="trajectory",
        advantage="gigpo",
        filter="success",
        **{**_GSPO, "clip": "gspo_literal"},
    ),
):
    register_recipe(_recipe)


def recipe(name: str, /, **overrides: Any) -> Recipe:
    """Return the recipe `name`. `overrides` replaces some of its choices and hyperparameters.

    If `overrides` selects another clip, hyperparameters that both the old and the new clip have keep their values.

    Raises:
        RecipeError: the recipe, a key or a choice is unknown, or a value is not allowed.
    """
    if name not in RECIPES:
        raise RecipeError(f"unknown recipe {name!r}: {nearest(name, RECIPES)}")
    base, known = RECIPES[name], choices()
    method = replace(base, clip_options={}, **{key: overrides[key] for key in overrides if key in known})
    declared = hyperparameters(CLIPS[method.clip].config)
    shared = {key: value for key, value in base.clip_options.items() if key in declared}
    return replace(method, clip_options=shared | {key: overrides[key] for key in overrides if key not in known})


def compute_advantages(
    recipe: Recipe,
    groups: Sequence[GroupRewards],
    *,
    invalid_penalty: float = 0.1,
    max_response_tokens: int | None = None,
) -> list[GroupAdvantages]:
    """Compute the advantages of all groups of one batch.

    Args:
        recipe: the method.
        groups: all groups of the batch, because EMPG and REINFORCE++ compute means over the batch. Each group includes
            the trajectories that are too old to be trained on.
        invalid_penalty: subtracted from the reward of a turn with an invalid action or format; 0: no penalty.
        max_response_tokens: the limit of a response in tokens, for recipes with overlong shaping.

    Raises:
        ValueError: a group lacks a field that the estimator needs, or the estimator returned a wrong number of values.
        RecipeError: the recipe has overlong shaping, but `max_response_tokens` is not given or is below 1.
    """
    config = recipe.advantage_config(invalid_penalty=invalid_penalty, max_response_tokens=max_response_tokens)
    advantages = ADVANTAGES[recipe.advantage].estimate(groups, config)
    if [list(map(len, each.total)) for each in advantages] != [list(map(len, group.rewards)) for group in groups]:
        raise ValueError(
            f"advantage {recipe.advantage!r} returned a wrong number of values; it must return one value for each turn "
            f"of each trajectory"
        )
    return advantages


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """The settings of a run that decide whether a recipe can have an effect.

    Attributes:
        updates_per_batch: optimiser steps on one batch of groups.
        policy_anchor: the source of π_old in the ratio. `bypass`: the sampler's log-probs. `decoupled`: the trainer's
            log-probs at the start of the training step.
        group_size: number of episodes in a group.
    """

    updates_per_batch: int
    policy_anchor: str
    group_size: int

    def __post_init__(self) -> None:
        """Check the names and counts."""
        if self.policy_anchor not in ("bypass", "decoupled"):
            raise RecipeError(
                f"policy_anchor = {self.policy_anchor!r}: {nearest(self.policy_anchor, ('bypass', 'decoupled'))}"
            )
        if self.updates_per_batch < 1 or self.group_size < 1:
            raise RecipeError(
                f"each batch has {self.updates_per_batch} updates, and each group {self.group_size} episodes: both "
                "numbers must be at least 1"
            )


def check(recipe: Recipe, run: RunContext) -> tuple[str, ...]:
    """Check that clip, mask, filter and advantage can have an effect in a run. Returns warnings about clip and mask.

    Raises:
        RecipeError: the clip or the mask has no effect, the filter drops every group, or there is no baseline for the
            advantage. The message contains the fix.
    """
    _check_group_size(recipe, run)
    ratio_free = not CLIPS[recipe.clip].uses_ratio
    if run.updates_per_batch > 1:
        return (_off_policy_warning(recipe, run),) if ratio_free else ()
    if run.policy_anchor == "decoupled":
        if not ratio_free:
            no_clip = "clip = 'reinforce'" + " and mask = 'none'" * (recipe.mask == "sequence")
            raise RecipeError(
                f"{recipe.name}: clip {recipe.clip!r} has no effect. With one optimiser step per batch and π_old "
                f"computed at the start of the step, every ratio is exactly 1. Do one of the following: set "
                f"minibatch_groups to at most half of groups_per_step, set policy_anchor = 'bypass', or set "
                f"{no_clip}."
            )
        if recipe.mask == "sequence":
            raise RecipeError(
                f"{recipe.name}: the sequence mask has no effect. With one optimiser step per batch and π_old "
                f"computed at the start of the step, π_old is the current policy. Either set minibatch_groups to at "
                f"most half of groups_per_step, or set mask = 'none'."
            )
        return ()
    if ratio_free and recipe.mask == "none":
        return ()
    parts = ["the clip"] * (not ratio_free) + ["the sequence mask"] * (recipe.mask == "sequence")
    return (
        f"{recipe.name}: with one optimiser step per batch, the current policy differs from π_old only because of "
        f"staleness and of the mismatch between sampler and trainer; on fresh groups, {' and '.join(parts)} "
        "will rarely have an effect.",
    )


def _off_policy_warning(recipe: Recipe, run: RunContext) -> str:
    return (
        f"{recipe.name}: clip {recipe.clip!r} has no ratio. With {run.updates_per_batch} updates per batch, all "
        f"updates after the first are off-policy, and no ratio corrects or limits them. Either set minibatch_groups to "
        f"groups_per_step (one update per batch), or choose a clip with a ratio, such as 'ppo' or 'cispo'."
    )


def _check_group_size(recipe: Recipe, run: RunContext) -> None:
    """Check that filter and advantage work with the group size of the run.

    Raises:
        RecipeError: a group has one episode, but the filter or the advantage compares the episodes of a group.
    """
    if run.group_size > 1:
        return
    fix = "either set group_size to 2 or more, or use recipe = 'reinforce_pp', which compares the episodes of a batch"
    if recipe.filter != "none":
        raise RecipeError(f"{recipe.name}: filter {recipe.filter!r} drops every group with group_size = 1; {fix}")
    if not ADVANTAGES[recipe.advantage].batch_baseline:
        raise RecipeError(
            f"{recipe.name}: advantage {recipe.advantage!r} compares the episodes of a group, and with group_size = 1 "
            f"there is no baseline; {fix}"
        )
