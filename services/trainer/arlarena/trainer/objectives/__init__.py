"""Policy-gradient objectives in four dimensions, one file each. A recipe is one choice per dimension.

Pure functions that import only torch and the standard library. They work without the rest of ARLArena:

    from arlarena.trainer.objectives import Batch, Denominators, GroupRewards, RunContext, LossConfig, Selection
    from arlarena.trainer.objectives import check, compute_advantages, policy_loss, recipe, rule_at

    method = recipe("sampo", clip_low=0.03, clip_high=0.04)        # clear error on an unknown name or key
    check(method, RunContext(updates_per_batch=4, policy_anchor="bypass", group_size=8))    # refuses dead clipping
    scored = compute_advantages(method, [GroupRewards(rewards=..., action_valid=..., state_keys=...), ...])
    selection = Selection(rule_at(method.filter, step, cold_start_steps), wanted, max_tries=method.max_tries)

    batches = [Batch(log_probs=..., old_log_probs=..., ...), ...]   # sampled tokens laid end to end
    step = Denominators.count(batches)                              # once an optimiser step, over all ranks
    for batch in batches:
        loss, metrics = policy_loss(method, batch, step, LossConfig(kl_coefficient=0.01))
        loss.backward()                                             # shares add up; never average them

At ratio level `trajectory` (gspo, sampo) s_i is taken over all rows of a trajectory. Either keep each trajectory whole
in one micro-batch, or run a no-gradient pass first: add `sequence_sums(batch, J)` over micro-batches and hand
`sequence_log_ratio(sums, counts)` to every `Batch`. Cut minibatches (one optimiser step each) by trajectories, not by
rows, so that the rows of one ratio meet the same θ.

Files: `rows` (the tensors), `aggregation`, `clipping`, `advantages` with `groups` and `similarity`, `filtering` (the
dimensions), `kl`, `recipes` (the table), `registry` (choices by name, plugins), `hyperparameters`, `loss` (their
composition), `cells` (diagnostics by sign, entropy and ratio).
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
