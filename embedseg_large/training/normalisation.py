"""Batch normalisation in a training: by the statistics of each batch, or by fixed ones.

::

    batch     y = scale · (x - mean of the batch) / deviation of the batch + shift
    frozen    y = scale · (x - fixed mean)        / fixed deviation        + shift, as in inference

A batch of a few crops from different sources has statistics that no single image has. A network
trained on them computes something else in inference, where an image is normalised by the running
statistics: its weights are good, but the outlines of its objects are not. With frozen statistics,
training and inference compute the same; scale and shift are still learned.

Random weights have no statistics worth keeping. They are learned with those of batches, until the
statistics are measured on many crops at once (compare Wu and Johnson, "Rethinking 'Batch' in
BatchNorm", 2021).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from embedseg_large.training.processes import Processes


def freeze(network: nn.Module) -> None:
    """Normalise by the running statistics, and leave them as they are.

    To be called after each ``network.train()``, which undoes it. Parameters remain trainable.
    """
    for layer in _layers(network):
        layer.eval()


@torch.no_grad()
def recalibrate(
    network: nn.Module,
    images: Iterable[Tensor],
    processes: Processes | None = None,
    *,
    still: nn.Module | None = None,
) -> None:
    """Replace the running statistics by the mean and variance over all voxels of many crops.

    Unlike an exponential mean over batches, this counts the differences between batches as part of
    the variance, and all crops alike. While measuring, each layer normalises by its batch, because
    the old statistics may be far off; nothing is dropped out, as in inference.

    Parameters
    ----------
    network
        Modified in place, and left in inference mode.
    images
        Batches, float32 ``(n, channels, *spatial)``, at least one, on the network's device.
    processes
        The processes that train together; each passes the same number of batches, and all get the
        statistics over all of them.
    still
        A part of the network whose statistics are kept; None: none are.
    """
    network.eval()
    kept = [] if still is None else _layers(still)
    moments = [_Moments(layer) for layer in _layers(network) if layer not in kept]
    for each in moments:
        each.layer.reset_running_stats()
        each.layer.train()
    hooks = [each.layer.register_forward_pre_hook(each.add) for each in moments]
    try:
        for batch in images:
            network(batch)
    finally:
        for hook in hooks:
            hook.remove()
        network.eval()
    for each in moments:
        each.settle(processes or Processes())


def _layers(network: nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


class _Moments:
    """Sums over all inputs of one layer: mean and variance follow from them."""

    def __init__(self, layer: _BatchNorm) -> None:
        self.layer = layer
        assert layer.running_mean is not None
        # sums of x and x² of each channel; the last column counts the voxels
        self._sums = layer.running_mean.new_zeros((2, layer.num_features + 1), dtype=torch.float64)

    def add(self, _layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Add a batch ``(n, channels, *spatial)``; a hook of torch."""
        x = inputs[0].float()
        variance, mean = torch.var_mean(x, [0, *range(2, x.ndim)], correction=0)
        count, mean = x.numel() // x.shape[1], mean.double()
        self._sums[0, :-1] += count * mean
        self._sums[1, :-1] += count * (variance.double() + mean.square())
        self._sums[:, -1] += count

    def settle(self, processes: Processes) -> None:
        """Write the statistics into the layer."""
        sums = processes.summed(self._sums)
        count = sums[0, -1]
        mean, squares = sums[:, :-1] / count
        variance = (squares - mean.square()).clamp(min=0) * count / (count - 1)  # as torch
        assert self.layer.running_mean is not None
        assert self.layer.running_var is not None
        self.layer.running_mean.copy_(mean)
        self.layer.running_var.copy_(variance)
