"""The optimiser and its learning-rate schedule."""

from __future__ import annotations

from collections.abc import Iterable

import torch


def lr_multiplier(step: int, warmup_steps: int, done: float, min_lr_ratio: float) -> float:
    """Return the learning rate at `step` as a share of the peak rate.

    The result is the minimum of two lines: a rise over `warmup_steps`, and a decay over the run.

    Args:
        step: steps taken so far.
        warmup_steps: number of steps below the peak rate. Without warm-up, the first steps of Adam change every weight
            by the full rate, even if the gradient is small. This can move the weights away from a sharp optimum.
        done: completed share of the run, in [0, 1].
        min_lr_ratio: share of the peak rate at the end of the run; 1: no decay.
    """
    rise = min(1.0, (step + 1) / (warmup_steps + 1))
    fall = 1.0 - (1.0 - min_lr_ratio) * min(done, 1.0)
    return min(rise, fall)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def adamw(
    parameters: Iterable[torch.nn.Parameter], rate: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """Return an AdamW optimiser, as in the runs of ARLArena (arXiv 2602.21534)."""
    return torch.optim.AdamW(parameters, lr=rate, betas=betas, weight_decay=weight_decay)
