"""Policy-gradient objectives. A recipe is a method: one choice per dimension.

The four dimensions are loss aggregation, importance-sampling clipping, advantage design and trajectory filtering
(ARLArena, arXiv 2602.21534). This package imports only torch and the standard library. The following code uses it
without the rest of ARLArena:

    from arlarena.trainer.objectives import Batch, Denominators, GroupRewards, RunContext, LossConfig, Selection
    from arlarena.trainer.objectives import check, compute_advantages, policy_loss, recipe, rule_at

    method = recipe("sampo", clip_low=0.03, clip_high=0.04)        # RecipeError on an unknown name or key
    # RecipeError if the clip or the mask would have no effect in this run
    check(method, RunContext(updates_per_batch=4, policy_anchor="bypass", group_size=8))
    scored = compute_advantages(method, [GroupRewards(rewards=..., action_valid=..., state_keys=...), ...])
    selection = Selection(rule_at(method.filter, step, cold_start_steps), wanted, max_tries=method.max_tries)

    batches = [Batch(log_probs=..., old_log_probs=..., ...), ...]   # sampled tokens of all rows, concatenated
    step = Denominators.count(batches)                              # once per optimiser step, over all ranks
    for batch in batches:
        loss, metrics = policy_loss(method, batch, step, LossConfig(kl_coefficient=0.01))
        loss.backward()                                             # gradients are summed, not averaged

At ratio level `trajectory` (recipes gspo and sampo), all rows of a trajectory share one importance ratio. If a
trajectory has rows in several micro-batches, compute the ratio before the loop:

1. In a pass without gradient, add up `sequence_sums(batch, J)` over the micro-batches. J is the number of trajectories.
2. Pass the result of `sequence_log_ratio(sums, counts)` to every `Batch`.

All log-probs in a ratio must be computed with the same weights. Therefore all rows of a trajectory must be in one
minibatch (the rows of one optimiser step).

Modules:

- `batch`: the tensors of a micro-batch
- `aggregation`, `clipping`, `advantages` (with `advantage_types` and `similarity`), `filtering`: the four dimensions
- `kl`: estimates of KL divergences, and entropy
- `recipes`: the named methods
- `registry`: choices by name, and plugins
- `hyperparameters`: declaration of hyperparameters with range and description
- `loss`: the loss of a micro-batch
- `cell_diagnostics`: metrics of rows, split by the sign of the advantage, the entropy and the ratio
"""

from arlarena.trainer.objectives.advantage_types import AdvantageConfig, GroupAdvantages, GroupRewards
from arlarena.trainer.objectives.advantages import register_advantage
from arlarena.trainer.objectives.aggregation import Denominators, register_aggregation
from arlarena.trainer.objectives.batch import Batch
from arlarena.trainer.objectives.cell_diagnostics import CellTable, cell_table
from arlarena.trainer.objectives.clipping import (
    ClipConfig,
    Terms,
    register_clip,
    sequence_log_ratio,
    sequence_sums,
)
from arlarena.trainer.objectives.filtering import Selected, Selection, Verdict, register_filter, rule_at
from arlarena.trainer.objectives.hyperparameters import hyperparameter
from arlarena.trainer.objectives.kl import Mismatch, entropy, mismatch
from arlarena.trainer.objectives.loss import LossConfig, merge_metrics, policy_loss
from arlarena.trainer.objectives.recipes import (
    RECIPES,
    Recipe,
    RunContext,
    check,
    compute_advantages,
    recipe,
    register_recipe,
)
from arlarena.trainer.objectives.registry import RecipeError, load_plugins

__all__ = [
    "RECIPES",
    "AdvantageConfig",
    "Batch",
    "CellTable",
    "ClipConfig",
    "Denominators",
    "GroupAdvantages",
    "GroupRewards",
    "LossConfig",
    "Mismatch",
    "Recipe",
    "RecipeError",
    "RunContext",
    "Selected",
    "Selection",
    "Terms",
    "Verdict",
    "cell_table",
    "check",
    "compute_advantages",
    "entropy",
    "hyperparameter",
    "load_plugins",
    "merge_metrics",
    "mismatch",
    "policy_loss",
    "recipe",
    "register_advantage",
    "register_aggregation",
    "register_clip",
    "register_filter",
    "register_recipe",
    "rule_at",
    "sequence_log_ratio",
    "sequence_sums",
]
