"""The Lovász hinge of many instances at once: one segmented sort, no loop over instances.

The Jaccard loss of a set of wrong voxels has a convex extension to real errors (Berman, Triki and
Blaschko 2018). Take the errors of one instance in descending order; let its mask have P voxels, of
which p are among the first errors, with n others. The Jaccard loss of these is
``1 - (P - p) / (P + n)``, and the extension weights each error by the increase its voxel brings::

    in the mask   1 / (P + n)                        p, n: voxels before it
    outside       (P - p) / ((P + n) (P + n + 1))

Differences of the Jaccard loss itself would lose half the digits of float32.
"""

from __future__ import annotations

import torch
from torch import Tensor


def lovasz_hinge(logits: Tensor, inside: Tensor, instances: Tensor, count: int) -> Tensor:
    """Compute the Lovász hinge of every instance.

    Parameters
    ----------
    logits
        Floats ``(n,)``: positive where the voxel is predicted to be in the instance's mask.
    inside
        bool ``(n,)``: whether it is.
    instances
        int64 ``(n,)``: the instance, 0 to ``count - 1``, in any order.
    count
        Number of instances.

    Returns
    -------
    ``(count,)``: sum of ``max(0, 1 - logit)`` (in the mask) and ``max(0, 1 + logit)`` (outside)
    with the weights above; 0 for an instance with no voxel in its mask. Differentiable by `logits`.
    """
    errors = torch.where(inside, 1 - logits, 1 + logits)
    order = _descending(errors.detach(), instances)
    groups = instances[order]
    weights = _weights(inside[order], groups, count).to(errors.dtype)
    terms = errors[order].clamp(min=0) * weights
    return torch.zeros(count, dtype=terms.dtype, device=terms.device).index_add(0, groups, terms)


def _descending(errors: Tensor, instances: Tensor) -> Tensor:
    """Return the order by instance, and by descending error within each."""
    order = torch.argsort(errors, descending=True)
    return order[torch.argsort(instances[order], stable=True)]


def _weights(inside: Tensor, groups: Tensor, count: int) -> Tensor:
    """Return the weight (float64) of each error, grouped by instance and sorted within."""
    sizes = torch.bincount(groups, minlength=count)
    masks = torch.bincount(groups[inside], minlength=count)
    total = masks[groups]
    place = torch.arange(len(groups), device=groups.device) - (sizes.cumsum(0) - sizes)[groups]
    passed = inside.long().cumsum(0) - inside.long() - (masks.cumsum(0) - masks)[groups]
    union = (total + place - passed).clamp(min=1).double()
    return torch.where(inside, 1 / union, (total - passed) / (union * (union + 1)))
