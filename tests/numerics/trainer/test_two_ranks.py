"""Two ranks (processes of the trainer) have the gradients and metrics of one rank.

The ranks communicate by gloo, and FSDP2 shards the parameters. `test_ranks.py`, which is slow, has the other cases.
"""

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from support.trainer.trainer_support import random_rows

from arlarena.trainer.learning.learner import Learner
from arlarena.trainer.learning.ranks import Ranks
from arlarena.trainer.model.policy import load_policy
from arlarena.trainer.objectives import recipe
from arlarena.trainer.settings import TrainerSettings

SETTINGS = TrainerSettings(
    device="cpu", lr=1e-3, kl_coefficient=0.02, entropy_coefficient=0.003, gradient_clip=1e9, tokens_per_microbatch=30
)


def update(policy: Path, ranks: Ranks, out: Path) -> None:
    """Take one step, and write its gradients and metrics to `out`."""
    learner = Learner(load_policy(policy), None, recipe("sampo"), SETTINGS, ranks)
    gradients = {}

    def keep(*_):
        for name, value in learner.scorer.named_parameters():
            gradients[name] = value.grad.full_tensor() if ranks.count > 1 else value.grad.clone()

    learner.optimizer.register_step_pre_hook(keep)
    rows = [replace(row, number=number) for number, row in enumerate(random_rows(2, count=17))]
    figures = learner.update([rows], 1e-3, [[0, 2]])
    if ranks.is_main:
        recorded = {number: [len(row.clip), *np.frombuffer(row.values, "<f4").tolist()]
                    for number, row in sorted(learner.row_figures[0].items())}  # fmt: skip
        (out / f"{ranks.count}-recorded.json").write_text(json.dumps(recorded))
        assert list(recorded) == [row.number for row in rows if row.trajectory in (0, 2)]
        save_file(gradients, out / f"{ranks.count}.safetensors")
        (out / f"{ranks.count}.json").write_text(json.dumps(figures))


def rank(index: int, policy: Path, out: Path) -> None:
    """Run one of the two processes."""
    dist.init_process_group("gloo", init_method=f"file://{out}/store", rank=index, world_size=2)
    update(policy, Ranks(index, 2), out)
    dist.destroy_process_group()


def test_two_ranks_have_the_gradients_and_figures_of_one(tiny_directory, tmp_path):
    forks = multiprocessing.get_context("fork")  # a fork need not import torch again
    ranks = [forks.Process(target=rank, args=(index, tiny_directory, tmp_path), daemon=True) for index in range(2)]
    for process in ranks:
        process.start()
    update(tiny_directory, Ranks(), tmp_path)
    for process in ranks:
        process.join(90)
        assert process.exitcode == 0
    alone, together = (load_file(tmp_path / f"{count}.safetensors") for count in (1, 2))
    assert alone.keys() == together.keys()
    one, two = (json.loads((tmp_path / f"{count}-recorded.json").read_text()) for count in (1, 2))
    assert one.keys() == two.keys()
    for number, values in one.items():
        assert values == pytest.approx(two[number], abs=1e-5)
    largest = max(float(value.abs().max()) for value in alone.values())
    assert largest > 0
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, atol=1e-5 * largest, rtol=1e-3)
    expected, result = (json.loads((tmp_path / f"{count}.json").read_text()) for count in (1, 2))
    assert result.keys() == expected.keys()
    for name in ("loss", "grad_norm", "reference_kl", "entropy", "mismatch_k3"):
        assert result[name] == pytest.approx(expected[name], rel=2e-3, abs=1e-6), name
