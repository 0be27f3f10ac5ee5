"""Every combination of the four dimensions takes a step on a tiny policy, with finite results and a gradient."""

import copy
import itertools
import math

import pytest
from support.trainer.covering_support import covering

from arlarena.proto.trajectory import PolicyVersion
from arlarena.trainer.batching.scoring import returns, score, successes, training_samples
from arlarena.trainer.batching.staleness import StalenessPolicy
from arlarena.trainer.learning.learner import Learner
from arlarena.trainer.objectives import RecipeError, Selection, recipe
from arlarena.trainer.objectives.advantages import ADVANTAGES
from arlarena.trainer.objectives.aggregation import AGGREGATIONS
from arlarena.trainer.objectives.clipping import CLIPS, RATIO_LEVELS
from arlarena.trainer.objectives.filtering import FILTERS
from arlarena.trainer.settings import TrainerSettings

NOW = PolicyVersion("run", 0, "now")
SETTINGS = TrainerSettings(lr=1e-5, kl_coefficient=0.01, entropy_coefficient=0.001, max_response_tokens=8)


@pytest.fixture
def learner(policy):
    return Learner(copy.deepcopy(policy), policy, recipe("grpo"), SETTINGS)


@pytest.fixture
def groups(make_group):
    wins = ([True, False, True], [True, True, True], [False, False, False], [False, True, False])
    return [make_group(f"g{number}", won, NOW) for number, won in enumerate(wins)]


def take_a_step(learner, groups, method):
    """Filter, score and update, as the trainer does with a batch of groups."""
    selection = Selection(method.filter, len(groups), max_tries=1, backfill=method.backfill)
    for group in groups:
        selection.offer(group, returns(group), successes(group))
    learner.recipe = method
    scored = score(
        method, selection.close().batch, StalenessPolicy(0, 0, {"now": 0}), invalid_penalty=0.1, max_response_tokens=8,
        entropy_fn=learner.mean_entropies,
    )  # fmt: skip
    return learner.update([training_samples(scored, "now")], rate=1e-5)


LITERAL = [name for name, clip in CLIPS.items() if clip.literal]
NAMES = ("clip", "aggregation", "ratio_level", "mask", "advantage", "filter", "backfill")
ALL = [
    (clip, aggregation, level, mask, advantage, rule, backfill)
    for clip, aggregation, level, mask, advantage, rule, backfill in itertools.product(
        sorted(CLIPS), sorted(AGGREGATIONS), RATIO_LEVELS, ("none", "sequence"), sorted(ADVANTAGES), sorted(FILTERS),
        (True, False),
    )
    if not (level == "token" and clip in LITERAL)  # such a recipe is refused
    if not (backfill and rule == "none")  # no group is dropped, so there is no back-fill
]  # fmt: skip


@pytest.fixture(scope="module")
def triples():
    return covering(ALL, 3)


def check(learner, groups, rows):
    for row in rows:
        method = recipe("grpo", **dict(zip(NAMES, row, strict=True)))
        metrics = take_a_step(learner, groups, method)
        assert all(math.isfinite(value) for value in metrics.values()), (method, metrics)
        assert metrics["grad_norm"] > 0, method


@pytest.mark.parametrize("clip", sorted(CLIPS))
def test_every_combination_of_three_choices(learner, groups, triples, clip):
    rows = [row for row in triples if row[0] == clip]
    assert len(rows) >= len(AGGREGATIONS) * len(ADVANTAGES)
    check(learner, groups, rows)


# Slow: 4,600 steps. This test also finds failures that occur only with a combination of more than three choices.
@pytest.mark.slow
@pytest.mark.parametrize("clip", sorted(CLIPS))
@pytest.mark.parametrize("aggregation", sorted(AGGREGATIONS))
def test_all_combinations(learner, groups, aggregation, clip):
    rows = [row for row in ALL if row[:2] == (clip, aggregation)]
    levels = len(RATIO_LEVELS) - (clip in LITERAL)
    assert len(rows) == levels * 2 * len(ADVANTAGES) * (2 * len(FILTERS) - 1)
    check(learner, groups, rows)


@pytest.mark.parametrize("clip", LITERAL)
def test_invalid_combinations_are_refused(clip):
    with pytest.raises(RecipeError, match="needs ratio_level = 'turn', 'row' or 'trajectory'"):
        recipe("grpo", clip=clip, ratio_level="token")
