"""Every combination of the four dimensions takes a step on a tiny policy: finite, and not dead."""

import copy
import itertools
import math

import pytest

from arlarena.proto.trajectory import PolicyVersion
from arlarena.trainer.learner import Learner
from arlarena.trainer.objectives import RecipeError, Selection, recipe
from arlarena.trainer.objectives.advantages import ADVANTAGES
from arlarena.trainer.objectives.aggregation import AGGREGATIONS
from arlarena.trainer.objectives.clipping import CLIPS, LITERAL_CLIPS, RATIO_LEVELS
from arlarena.trainer.objectives.filtering import FILTERS
from arlarena.trainer.scoring import Freshness, returns, rows_of, score, successes
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
    """Filter, score, learn: what the trainer does with a batch of groups."""
    selection = Selection(method.filter, len(groups), max_tries=1, backfill=method.backfill)
    for group in groups:
        selection.offer(group, returns(group), successes(group))
    learner.recipe = method
    scored = score(
        method, selection.close().batch, Freshness(0, 0, {"now": 0}), invalid_penalty=0.1, max_response_tokens=8,
        measure=learner.mean_entropies,
    )  # fmt: skip
    return learner.update([rows_of(scored, "now")], rate=1e-5)


@pytest.mark.parametrize("clip", sorted(CLIPS))
@pytest.mark.parametrize("aggregation", sorted(AGGREGATIONS))
def test_all_combinations(learner, groups, aggregation, clip):
    levels = [level for level in RATIO_LEVELS if level != "token" or clip not in LITERAL_CLIPS]
    taken = 0
    for level, mask, advantage, rule, backfill in itertools.product(
        levels, ("none", "sequence"), sorted(ADVANTAGES), sorted(FILTERS), (True, False)
    ):
        if backfill and rule == "none":
            continue  # nothing is dropped, so nothing is filled up
        method = recipe(
            "grpo", aggregation=aggregation, clip=clip, ratio_level=level, mask=mask, advantage=advantage, filter=rule,
            backfill=backfill,
        )  # fmt: skip
        metrics = take_a_step(learner, groups, method)
        assert all(math.isfinite(value) for value in metrics.values()), (method, metrics)
        assert metrics["grad_norm"] > 0, method
        taken += 1
    assert taken == len(levels) * 2 * len(ADVANTAGES) * 5


@pytest.mark.parametrize("clip", sorted(LITERAL_CLIPS))
def test_what_cannot_be_is_refused(clip):
    with pytest.raises(RecipeError, match="shares a ratio over a turn, row or trajectory"):
        recipe("grpo", clip=clip, ratio_level="token")
