"""The choices of each recipe, overrides, and the refusal of combinations without effect."""

import dataclasses

import pytest

from arlarena.trainer.objectives import RECIPES, Recipe, RecipeError, RunContext, check, recipe

# name: aggregation, clip, ratio level, advantage, filter, mask, ε_lo, ε_hi
TABLE = {
    "grpo": ("token_mean", "ppo", "token", "grpo", "none", "none", 0.2, 0.2),
    "grpo_st": ("seq_mean_token_mean", "ppo", "token", "grpo", "none", "none", 0.2, 0.2),
    "grpo_sm": ("token_mean", "ppo", "token", "grpo", "none", "sequence", 0.2, 0.2),
    "gspo": ("token_mean", "gspo", "trajectory", "grpo", "none", "none", 3e-3, 4e-3),
    "gspo_release": ("seq_mean_token_mean", "gspo", "row", "grpo", "none", "none", 3e-3, 4e-3),
    "cispo": ("token_mean", "cispo", "token", "grpo", "none", "none", 1.0, 0.2),
    "cispo_sm": ("token_mean", "cispo", "token", "grpo", "none", "sequence", 1.0, 0.2),
    "sapo": ("token_mean", "sapo", "token", "grpo", "none", "none", 0.2, 0.2),
    "sapo_sm": ("token_mean", "sapo", "token", "grpo", "none", "sequence", 0.2, 0.2),
    "gigpo": ("token_mean", "ppo", "token", "gigpo", "none", "none", 0.2, 0.2),
    "empg": ("token_mean", "ppo", "token", "empg", "none", "none", 0.2, 0.2),
    "dapo_grpo": ("token_mean", "ppo", "token", "grpo", "return", "none", 0.2, 0.2),
    "dapo_gigpo": ("token_mean", "ppo", "token", "gigpo", "return", "none", 0.2, 0.2),
    "sampo": ("token_mean", "gspo", "trajectory", "gigpo", "success", "none", 3e-3, 4e-3),
    "sampo_release": ("seq_mean_token_mean", "gspo", "row", "gigpo", "return", "none", 3e-3, 4e-3),
    "rloo": ("seq_mean_token_sum", "reinforce", "token", "rloo", "none", "none", 0.2, 0.2),
    "reinforce_pp": ("token_mean", "ppo", "token", "reinforce_pp", "none", "none", 0.2, 0.2),
    "dr_grpo": ("seq_mean_token_sum_norm", "ppo", "token", "grpo", "none", "none", 0.2, 0.2),
}


@pytest.mark.parametrize("name", list(TABLE))
def test_recipes_have_the_choices_of_the_table(name):
    row = recipe(name)
    chosen = (row.aggregation, row.clip, row.ratio_level, row.advantage, row.filter, row.mask)
    assert (*chosen, row.clip_config.clip_low, row.clip_config.clip_high) == TABLE[name]
    assert row.name == name


def test_recipes_have_their_hyperparameters():
    assert (recipe("sampo").omega, recipe("sampo").gamma, recipe("sampo").max_tries) == (1.0, 0.95, 3)
    assert (recipe("dapo_grpo").max_tries, recipe("dapo_gigpo").overlong) == (2, True)
    sapo = recipe("sapo").clip_config
    assert (sapo.tau_positive, sapo.tau_negative) == (1.0, 1.05)
    assert (recipe("empg").entropy_k, recipe("empg").entropy_k_next, recipe("empg").entropy_zeta) == (1.0, 1.0, 0.05)
    assert recipe("grpo_sm").mask_delta == 3e-3
    assert (recipe("dr_grpo").scale, recipe("grpo").scale) == ("none", "std")
    assert all(row.clip_config.dual_clip is None for row in RECIPES.values() if row.clip == "ppo")


def test_registered_recipes_cannot_be_changed():
    with pytest.raises(TypeError):
        RECIPES["grpo"] = recipe("gspo")
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe("grpo").gamma = 0.1


def test_overrides_change_a_copy():
    assert recipe("sampo", clip_low=0.03, ratio_level="turn").clip_config.clip_low == 0.03
    assert recipe("sampo").clip_config.clip_low == 3e-3


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("sampoo", {}, "unknown recipe 'sampoo': did you mean 'sampo'"),
        ("zzzz", {}, "one of grpo, grpo_st"),
        ("sampo", {"clip_lo": 0.1}, "no choice 'clip_lo': did you mean 'clip_low'"),
        ("sampo", {"name": "mine"}, "no choice 'name'"),
        ("sampo", {"ratio_level": "sequence"}, "ratio_level = 'sequence'"),
        ("sampo", {"aggregation": "token-mean"}, "did you mean 'token_mean'"),
        ("sampo", {"advantage": ["gigpo"]}, "advantage = "),
        ("sampo", {"clip_low": 0}, "clip_low = 0 must be above 0"),
        ("sampo", {"clip_low": 1.5}, "at most 1"),
        ("sampo", {"clip_high": float("nan")}, "finite"),
        ("sampo", {"clip_high": float("inf")}, "finite"),
        ("sampo", {"clip_high": "0.2"}, "finite number"),
        ("sampo", {"gamma": 1.01}, "at most 1"),
        ("sampo", {"omega": True}, "finite number"),
        ("sampo", {"max_tries": 0}, "whole number"),
        ("sampo", {"max_tries": 2.5}, "whole number"),
        ("sampo", {"backfill": "yes"}, "true or false"),
        ("sampo", {"dual_clip": 3.0}, "clips with this hyperparameter: 'ppo'"),
        ("grpo", {"dual_clip": 0.5}, "at least 1"),
        ("gspo_literal", {"ratio_level": "token"}, "not 'token'"),
    ],
)
def test_errors_name_the_mistake_and_the_nearest_choice(name, overrides, message):
    with pytest.raises(RecipeError, match=message):
        recipe(name, **overrides)


def test_a_new_recipe_passes_the_checks():
    mine = Recipe(name="mine", clip="cispo", ratio_level="turn", advantage="gigpo", filter="success")
    assert check(mine, RunContext(updates_per_batch=2, policy_anchor="bypass", group_size=8)) == ()


# ---- combinations without effect -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "rloo"])
def test_one_update_per_batch_with_a_decoupled_anchor_is_refused(name):
    with pytest.raises(RecipeError, match=r"clip .* has no effect"):
        check(recipe(name), RunContext(updates_per_batch=1, policy_anchor="decoupled", group_size=8))


def test_statistics_are_over_rows_unless_a_method_takes_whole_trajectories():
    by_trajectory = {"rloo", "reinforce_pp", "dr_grpo"}
    units = {name: row.stat_unit for name, row in RECIPES.items()}
    assert units == {name: "trajectory" if name in by_trajectory else "row" for name in RECIPES}


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "rloo"])
def test_several_updates_per_batch_are_accepted(name):
    for anchor in ("bypass", "decoupled"):
        assert check(recipe(name), RunContext(updates_per_batch=4, policy_anchor=anchor, group_size=8)) == ()


def test_methods_without_a_ratio_may_take_one_update_per_batch():
    facts = RunContext(updates_per_batch=1, policy_anchor="decoupled", group_size=8)
    assert check(recipe("rloo"), facts) == ()
    with pytest.raises(RecipeError, match="sequence mask has no effect"):
        check(recipe("rloo", mask="sequence"), facts)


@pytest.mark.parametrize("anchor", ["bypass", "decoupled"])
@pytest.mark.parametrize("overrides", [{}, {"mask": "sequence"}])
def test_several_updates_without_a_ratio_are_warned_about(anchor, overrides):
    facts = RunContext(updates_per_batch=4, policy_anchor=anchor, group_size=8)
    (warning,) = check(recipe("rloo", **overrides), facts)
    for part in ("rloo", "'reinforce' has no ratio", "4 updates per batch", "groups_per_step", "'ppo'"):
        assert part in warning
    assert check(recipe("rloo", clip="ppo"), facts) == ()


def test_one_update_per_batch_with_a_bypass_anchor_gives_a_warning():
    facts = RunContext(updates_per_batch=1, policy_anchor="bypass", group_size=8)
    for name, overrides, parts in (
        ("sampo", {"mask": "none"}, "the clip"),
        ("sampo", {"mask": "sequence"}, "the clip and the sequence mask"),
        ("rloo", {"mask": "sequence"}, "the sequence mask"),
    ):
        (warning,) = check(recipe(name, **overrides), facts)
        assert f"on fresh groups, {parts} will rarely have an effect" in warning


def test_the_fix_for_a_clip_without_effect_leads_to_no_other_error():
    facts = RunContext(updates_per_batch=1, policy_anchor="decoupled", group_size=8)
    with pytest.raises(RecipeError, match="set clip = 'reinforce' and mask = 'none'"):
        check(recipe("grpo", mask="sequence"), facts)
    assert check(recipe("grpo", clip="reinforce", mask="none"), facts) == ()


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "reinforce_pp"])
def test_a_group_of_one_is_refused_where_advantages_are_relative_to_the_group(name):
    with pytest.raises(RecipeError, match=r"filter '\w+' drops every group|no baseline") as refused:
        check(recipe(name), RunContext(updates_per_batch=4, policy_anchor="bypass", group_size=1))
    assert "group_size to 2 or more, or use recipe = 'reinforce_pp'" in str(refused.value)


def test_a_group_of_one_passes_where_advantages_are_relative_to_the_batch():
    facts = RunContext(updates_per_batch=4, policy_anchor="bypass", group_size=1)
    assert check(recipe("reinforce_pp"), facts) == ()
    with pytest.raises(RecipeError, match="drops every group"):
        check(recipe("reinforce_pp", filter="success"), facts)


@pytest.mark.parametrize("facts", [("bypas", 1, 8), ("bypass", 0, 8), ("bypass", 1, 0)])
def test_invalid_run_contexts_are_refused(facts):
    anchor, updates, size = facts
    with pytest.raises(RecipeError, match=r"did you mean 'bypass'|must be at least 1"):
        RunContext(updates_per_batch=updates, policy_anchor=anchor, group_size=size)
