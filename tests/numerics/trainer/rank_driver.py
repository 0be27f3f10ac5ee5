"""The program of each rank (process) in `test_ranks.py`. Takes two optimiser steps for each method.

    torchrun --nproc-per-node 2 rank_driver.py POLICY PLAN OUT        PLAN: a pickle of [(name, settings, minibatches)]

Rank 0 writes the results. The other ranks run `worker_loop`, as in a run. OUT/<number>.safetensors holds the gradients
of the last update, the weights and the optimiser state. OUT/<number>.json holds the metrics, entropies and log-probs.
"""

import json
import pickle
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from arlarena.trainer.learning.coordinator import Coordinator, worker_loop
from arlarena.trainer.learning.learner import Learner, _full_tensor
from arlarena.trainer.learning.ranks import Ranks
from arlarena.trainer.learning.shared_restore import receive_restore, restore_on_all_ranks
from arlarena.trainer.model.policy import load_policy
from arlarena.trainer.objectives import recipe
from arlarena.trainer.settings import TrainerSettings


def learner_of(policy, name, options, ranks):
    torch.manual_seed(0)
    return Learner(load_policy(policy), None, recipe(name), TrainerSettings(**options), ranks)


def main(policy, plan, out):
    ranks, out = Ranks.from_env(), Path(out)
    for number, (name, options, minibatches) in enumerate(pickle.loads(Path(plan).read_bytes())):
        learner = learner_of(policy, name, options, ranks)
        gradients = {}

        def keep(*_, learner=learner, gradients=gradients):
            gradients.update({key: _full_tensor(value.grad) for key, value in learner.scorer.named_parameters()})

        learner.optimizer.register_step_pre_hook(keep)
        if not ranks.is_main:
            worker_loop(learner, ranks)
        else:
            lead = Coordinator(learner)
            metrics = [lead.update(minibatches, 1e-3), lead.update(minibatches, 5e-4)]
            skipped = lead.skipped_minibatches
            rows = [row for rows in minibatches for row in rows]
            result = {
                "metrics": metrics,
                "skipped": skipped,
                "entropies": lead.mean_entropies(rows),
                "log_probs": lead.log_probs([5], [6, 7]),
            }
            (out / f"{number}.json").write_text(json.dumps(result))
            state = {f"weight/{key}": value.clone() for key, value in lead.weights().items()}
            state |= {f"optimizer/{key}": value for key, value in lead.optimizer_state().items()}
            save_file(
                state | {f"gradient/{key}": value for key, value in gradients.items()}, out / f"{number}.safetensors"
            )
            lead.stop()
        # Load the saved state into a new learner on the same ranks, and take one more step. Only rank 0 reads the file.
        again = learner_of(policy, name, options, ranks)
        if ranks.is_main:
            saved = load_file(out / f"{number}.safetensors")
            parts = ({k.split("/", 1)[1]: v for k, v in saved.items() if k.startswith(kind)} for kind in ("w", "o"))
            restore_on_all_ranks(again, ranks, *parts)
        else:
            receive_restore(again, ranks)
        later = again.update(minibatches, 2e-4)
        weights = again.weights()
        if ranks.is_main:
            save_file({key: value.clone() for key, value in weights.items()}, out / f"{number}.later.safetensors")
            (out / f"{number}.later.json").write_text(json.dumps(later))
    ranks.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
