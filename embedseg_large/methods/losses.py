"""Losses of single fields: means over the annotated voxels, 0 if there are none."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

_LEAST = 1e-6  # smaller sums of weights count as 0; its inverse has finite gradients


def of_classes(raw: Tensor, classes: Tensor, weights: Sequence[float]) -> Tensor:
    """Cross-entropy of logits ``(n, classes, *spatial)``; a class of -1 is ignored.

    There is one weight per class; the weighted sum is divided by the number of counted voxels.
    """
    wanted = classes.long()
    each = F.cross_entropy(
        raw, wanted, weight=raw.new_tensor(weights), ignore_index=-1, reduction="none"
    )
    return mean(each, wanted >= 0)


def of_probability(raw: Tensor, wanted: Tensor, counts: Tensor | None = None) -> Tensor:
    """Cross-entropy of logits with target probabilities 0 to 1; negative targets are ignored.

    Parameters
    ----------
    raw, wanted
        Arrays of the same shape.
    counts
        Weights of that shape. Default: 1 where `wanted` is at least 0, else 0.
    """
    target = wanted.to(raw.dtype)
    each = F.binary_cross_entropy_with_logits(raw, target.clamp(min=0), reduction="none")
    return mean(each, target >= 0 if counts is None else counts)


def of_values(raw: Tensor, wanted: Tensor, weights: Tensor, *, squared: bool = False) -> Tensor:
    """Mean absolute (or squared) difference, with weights that broadcast to the shape of `raw`."""
    each = raw - wanted.to(raw.dtype)
    return mean(each.square() if squared else each.abs(), weights.expand_as(raw))


def mean(each: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean; 0, with a gradient of 0, where all weights are 0."""
    share = weights.to(each.dtype)
    return (each * share).sum() / share.sum().clamp(min=_LEAST)
