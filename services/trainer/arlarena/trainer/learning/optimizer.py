"""The optimiser, and how its rate moves over a run."""

from __future__ import annotations

from collections.abc import Iterable

import torch


def lr_multiplier(step: int, warmup_steps: int, done: float, final_share: float) -> float:
    """The share of the peak rate at `step` (from 0): a linear rise over `warmup_steps`, then a linear fall.

    Args:
        step: steps taken so far.
        warmup_steps: steps below the peak at the start. Adam divides by a running size of the gradient, so its very
            first steps move every weight by the whole rate, whatever the gradient: they undo part of a sharp optimum.
        done: share of the whole training behind us, in [0, 1].
        final_share: where the fall ends; 1 keeps the rate constant.
    """
    rise = min(1.0, (step + 1) / (warmup_steps + 1))
    fall = 1.0 - (1.0 - final_share) * min(done, 1.0)
    return min(rise, fall)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let the next step of every parameter group have this rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def adamw(
    parameters: Iterable[torch.nn.Parameter], rate: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """AdamW, the optimiser of the paper's runs."""
    return torch.optim.AdamW(parameters, lr=rate, betas=betas, weight_decay=weight_decay)
