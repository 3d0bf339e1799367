"""Losses of single fields: means over the voxels that are annotated, 0 where none is."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

_LEAST = 1e-6  # a sum of weights below it is none; its inverse has finite gradients


def of_classes(raw: Tensor, classes: Tensor, weights: Sequence[float]) -> Tensor:
    """Cross-entropy of logits ``(n, classes, *spatial)``; a class of -1 is ignored.

    Weights are of the classes: a weighted sum, divided by the number of voxels that count.
    """
    wanted = classes.long()
    each = F.cross_entropy(
        raw, wanted, weight=raw.new_tensor(weights), ignore_index=-1, reduction="none"
    )
    return mean(each, wanted >= 0)


def of_probability(raw: Tensor, wanted: Tensor, counts: Tensor | None = None) -> Tensor:
    """Cross-entropy of logits with probabilities 0 to 1; below 0 they are ignored.

    Parameters
    ----------
    raw, wanted
        Of one shape.
    counts
        Weights of that shape; None: 1 where `wanted` is at least 0.
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
