"""The instance term: the Lovász hinge of every instance's Gaussian against its mask.

Two implementations of the same numbers: on the CPU, one compiled pass computes value and gradient;
elsewhere, tensors hold the pairs of voxel and instance that count, and autograd does the rest.
`embedseg_large.training.loss.instance_cpu` explains why most pairs can be left out.
"""

from __future__ import annotations

from math import log
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from embedseg_large.training.data.targets import Batch
from embedseg_large.training.loss.instance_cpu import Gaussians, Members, instance_term
from embedseg_large.training.loss.lovasz import lovasz_hinge


class InstanceTerm(NamedTuple):
    """The instance term, and by-products at no extra cost; only `total` has a gradient."""

    total: Tensor
    """Scalar: sum over instances of weight times Lovász hinge."""
    phi: Tensor
    """``(memberships,)``: the Gaussian of each instance at its own voxels."""
    overlaps: Tensor
    """``(K,)``: intersection over union of ``phi > 0.5`` and the mask."""


def instance_loss(
    embedding: Tensor, centers: Tensor, precisions: Tensor, batch: Batch, weights: Tensor
) -> InstanceTerm:
    """Compare the Gaussian of every instance with its mask, over all voxels of its crop that count.

    Parameters
    ----------
    embedding
        float32 or float64 ``(samples, ndim, voxels)``: where each voxel points.
    centers, precisions
        ``(K, ndim)``, of the Gaussians ``exp(-sum_d precision_d (embedding_d - center_d)²)``.
    batch
        The memberships.
    weights
        ``(K,)``: weights of the instances in the total.
    """
    route = _CompiledTerm.apply if embedding.device.type == "cpu" else tensor_term
    return InstanceTerm(*route(embedding, centers, precisions, batch, weights))


class _CompiledTerm(torch.autograd.Function):
    """The CPU implementation; the gradient is computed with the value."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        embedding: Tensor,
        centers: Tensor,
        precisions: Tensor,
        batch: Batch,
        weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return total, Gaussians and overlaps."""
        starts = torch.nn.functional.pad(batch.sizes.cumsum(0), (1, 0))
        annotated = batch.annotated.flatten(1)
        outcome = instance_term(
            Gaussians(*(t.contiguous().numpy() for t in (embedding, centers, precisions))),
            Members(*(t.numpy() for t in (annotated, batch.voxels, starts, batch.samples))),
            weights.numpy(),
            torch.get_num_threads(),
        )
        losses, phi, overlaps, *gradient = map(torch.from_numpy, outcome)
        ctx.mark_non_differentiable(phi, overlaps)
        ctx.save_for_backward(*gradient)
        return losses @ weights, phi, overlaps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradient."""
        embedding, precisions = ctx.saved_tensors
        return total * embedding, None, total * precisions, None, None


def tensor_term(
    embedding: Tensor, centers: Tensor, precisions: Tensor, batch: Batch, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return total, Gaussians and overlaps: for accelerators, but correct on any device."""
    with torch.no_grad():
        voxels, instances = _others(embedding, centers, precisions, batch)
    own = len(batch.voxels)
    instances = torch.cat([batch.instances, instances])
    points = _at(embedding, torch.cat([batch.voxels, voxels]))
    phi = (-_exponents(points, centers[instances], precisions[instances])).exp()
    inside = torch.arange(len(phi), device=phi.device) < own
    losses = lovasz_hinge(2 * phi - 1, inside, instances, len(weights))
    phi = phi.detach()
    found = torch.bincount(instances[phi > 0.5], minlength=len(weights))
    both = torch.bincount(batch.instances[phi[:own] > 0.5], minlength=len(weights))
    return losses @ weights, phi[:own], both / (batch.sizes + found - both)


def _at(embedding: Tensor, voxels: Tensor) -> Tensor:
    """Return the embedding ``(n, ndim)`` of voxels, flat indices into (samples, voxels)."""
    size, ndim = embedding.shape[2], embedding.shape[1]
    sample = torch.div(voxels, size, rounding_mode="floor")
    first = voxels + sample * (ndim - 1) * size
    return embedding.flatten()[first[:, None] + size * torch.arange(ndim, device=first.device)]


def _exponents(points: Tensor, centers: Tensor, precisions: Tensor) -> Tensor:
    """Return -log phi of n points and n Gaussians, all ``(n, ndim)``."""
    return (precisions * (points - centers).square()).sum(1)


def _others(
    embedding: Tensor, centers: Tensor, precisions: Tensor, batch: Batch
) -> tuple[Tensor, Tensor]:
    """Return voxel and instance of the pairs outside the masks that count.

    Every instance is compared with its crop at once, at about ten bytes per pair.
    """
    (count, ndim, size), k = embedding.shape, len(centers)
    places = torch.bincount(batch.samples, minlength=count)
    place = torch.arange(k, device=centers.device) - (places.cumsum(0) - places)[batch.samples]
    slot = batch.samples, place
    table = embedding.new_zeros(count, int(places.max()), 2 * ndim + 1)  # a reach of 0: no instance
    reach = _reach(embedding, centers, precisions, batch)
    table[slot] = torch.cat([centers, precisions, reach[:, None]], dim=1)
    q = embedding.new_zeros(*table.shape[:2], size)
    for d in range(ndim):
        step = embedding[:, d, None] - table[:, :, d, None]
        q.addcmul_(step.square_(), table[:, :, ndim + d, None])
    counts = (q < table[:, :, -1:]) & batch.annotated.flatten(1)[:, None]
    counts[batch.samples[batch.instances], place[batch.instances], batch.voxels % size] = False
    sample, place, voxel = counts.nonzero(as_tuple=True)
    return sample * size + voxel, (places.cumsum(0) - places)[sample] + place


def _reach(embedding: Tensor, centers: Tensor, precisions: Tensor, batch: Batch) -> Tensor:
    """Return, for each instance, the exponent from which on voxels outside do not count."""
    own = batch.instances
    q = _exponents(_at(embedding, batch.voxels), centers[own], precisions[own])
    least = q.new_full((len(centers),), torch.inf).scatter_reduce(0, own, q, "amin")
    vanishing = torch.finfo(q.dtype).eps / 4  # 2 phi - 1 rounds to -1
    return (-torch.expm1(-least)).log().neg().clamp(max=-log(vanishing))
