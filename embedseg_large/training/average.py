"""The running mean of a network's weights, which is better than the last weights.

Steps on small batches scatter around a good solution; their mean is closer to it (Polyak and
Juditsky 1992; Tarvainen and Valpola 2017), most of all in short trainings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged(network: nn.Module, steps: int) -> AveragedModel:
    """Return a mean of weights and running statistics, to be updated after each step.

    Parameters
    ----------
    network
        Where the mean starts.
    steps
        Number of steps that the mean covers. It is exponential, and shorter at first: a tenth of
        the steps so far.
    """
    return AveragedModel(network, multi_avg_fn=exponential(steps), use_buffers=True)


def exponential(
    steps: int,
) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """Return the update of a mean: the weight of new values falls to ``1 / steps``."""

    @torch.no_grad()
    def update(mean: Sequence[Tensor], new: Sequence[Tensor], count: Tensor | int) -> None:
        share = max(1 / steps, 9 / (10 + int(count)))
        for old, now in zip(mean, new, strict=True):
            if old.is_floating_point():
                old.lerp_(now, share)
            else:
                old.copy_(now)  # a counter

    return update
