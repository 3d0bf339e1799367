"""The loss of EmbedSeg (Lalit et al. 2021, after Neven et al. 2019), for a whole batch at once.

With phi_k the Gaussian of instance k, centred on its centre, its precision from the mean of the raw
sigmas of its voxels (all lengths in the network's unit, in which a voxel spans `pitch`)::

    phi_k    = exp(-sum_d s_kd (e_d - c_kd)²)    e = voxel · pitch + tanh(raw offset)
    s_kd     = exp(10 · mean over k of raw sigma_d)

    instance = mean over k of the Lovász hinge of 2 phi_k - 1 against the mask of k
    variance = mean over k, its voxels and axes, of (raw sigma - its mean over k)²
    seed     = [sum over background of seed²
                + w · sum over k and its voxels of (seed - phi_k)²] / voxels of the crop
    total    = 1 · instance + 10 · variance + 1 · seed

each the mean over the samples of the batch; no gradient flows from the seed term into phi. A sample
without instances has instance and variance 0. Ignored voxels have no effect, as if the crop were
smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from embedseg_large.embedding import channel_count, raw_layout
from embedseg_large.errors import UsageError
from embedseg_large.training.data.targets import Batch
from embedseg_large.training.loss.instance import instance_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeights:
    """Weight of each term in the total; default: the paper's."""

    instance: float = 1
    variance: float = 10
    seed: float = 1


@dataclass(frozen=True, slots=True, eq=False)
class LossTerms:
    """The loss of a batch: scalars, means over its samples."""

    total: Tensor
    """The weighted sum of the terms; the one to differentiate."""
    instance: Tensor
    variance: Tensor
    seed: Tensor
    overlaps: Tensor
    """``(K,)``, without gradient: intersection over union of ``phi_k > 0.5`` and each mask."""


def embedding_loss(
    raw: Tensor,
    batch: Batch,
    *,
    pitch: Sequence[float],
    foreground_weight: float,
    weights: LossWeights | None = None,
) -> LossTerms:
    """Compute the loss of a batch, in float32 (float64 for float64), within autocast as well.

    Parameters
    ----------
    raw
        ``(samples, 2·ndim + 1, *spatial)``: the network's channels, in its order, without
        activations.
    batch
        The targets, on the device of `raw`.
    pitch
        Size of a voxel along each axis (z, y, x) in the network's unit.
    foreground_weight
        Weight w of foreground in the seed term.
    weights
        Weights of the terms.

    Raises
    ------
    UsageError
        If the shape of `raw` does not match the batch, or the pitch does not match its axes.
    """
    ndim = batch.centers.shape[1]
    wanted = (len(batch.image), channel_count(ndim), *batch.image.shape[2:])
    if raw.shape != wanted:
        raise UsageError(f"network output {tuple(raw.shape)}; this batch needs {wanted}")
    if len(pitch) != ndim or min(pitch) <= 0:
        raise UsageError(f"pitch {tuple(pitch)} over {ndim} axes; pass {ndim} positive numbers")
    _choose_kernels()
    with torch.autocast(raw.device.type, enabled=False):
        exact = raw.to(torch.promote_types(raw.dtype, torch.float32))
        return _loss(exact, batch, pitch, foreground_weight, weights or LossWeights())


@cache
def _choose_kernels() -> None:
    """Make MKL choose its kernels for tanh and exp on one thread, once per process.

    It chooses when a function is first called. If two threads of torch made that call
    simultaneously, each for half of a tensor, the first half occasionally came from the kernel of
    lowest accuracy (tanh off by 1e-5, torch 2.13), and a training was not repeatable to the last
    bit.
    """
    for dtype in (torch.float32, torch.float64):
        number = torch.zeros(1, dtype=dtype)
        number.tanh()
        number.exp()


def _loss(
    raw: Tensor,
    batch: Batch,
    pitch: Sequence[float],
    foreground_weight: float,
    weights: LossWeights,
) -> LossTerms:
    """Compute the loss of raw channels of full precision."""
    sizes, axes = raw_layout(batch.centers.shape[1])
    offsets, sigmas, logits = torch.split(raw.flatten(2), list(sizes), dim=1)
    shares = _shares(batch).to(raw.dtype)
    own = _own_sigmas(sigmas, batch)
    # "unsafe" skips a check of the lengths that fails if there are none
    means = torch.segment_reduce(own, "mean", lengths=batch.sizes, axis=0, unsafe=True)
    gaussians = instance_loss(
        offsets.tanh() + _places(raw, [pitch[d] for d in axes], axes),
        (batch.centers.to(raw.dtype) * raw.new_tensor(pitch))[:, axes],
        (10 * means).exp(),
        batch,
        shares,
    )
    variance = _variance(own, means.detach(), batch, shares)
    seed = _seed(logits.sigmoid().flatten(), gaussians.phi, batch, foreground_weight)
    total = weights.instance * gaussians.total + weights.variance * variance + weights.seed * seed
    return LossTerms(
        total, gaussians.total.detach(), variance.detach(), seed.detach(), gaussians.overlaps
    )


def _shares(batch: Batch) -> Tensor:
    """Return the weight (K,) of each instance in a mean over instances, then over samples."""
    counts = torch.bincount(batch.samples, minlength=len(batch.image))
    return 1 / (counts[batch.samples] * len(batch.image))


def _places(raw: Tensor, pitch: Sequence[float], axes: Sequence[int]) -> Tensor:
    """Return the voxels' coordinates ``(ndim, voxels)`` in the network's unit and its order."""
    shape = raw.shape[2:]
    lines = [torch.arange(n, dtype=raw.dtype, device=raw.device) for n in shape]
    grid = torch.meshgrid([lines[d] for d in range(len(shape))], indexing="ij")
    return torch.stack([grid[d].flatten() * p for d, p in zip(axes, pitch, strict=True)])


def _own_sigmas(sigmas: Tensor, batch: Batch) -> Tensor:
    """Return the raw sigmas ``(memberships, ndim)`` of all members."""
    return sigmas.transpose(1, 2).flatten(0, 1)[batch.voxels]


def _variance(own: Tensor, means: Tensor, batch: Batch, shares: Tensor) -> Tensor:
    """Return the variance term; its gradient by the means is exactly 0, so they are constants."""
    weight = shares / (batch.sizes * own.shape[1])
    squares = (own - means[batch.instances]).square().sum(1)
    return squares @ weight[batch.instances]


def _seed(seeds: Tensor, phi: Tensor, batch: Batch, foreground_weight: float) -> Tensor:
    """Return the seed term, from the seeds of all samples, flat."""
    count, size = len(batch.image), batch.background[0].numel()
    share = 1 / (batch.annotated.flatten(1).sum(1).clamp(min=1) * count).to(seeds.dtype)
    background = (seeds * batch.background.flatten()).square().view(count, size).sum(1)
    foreground = (seeds[batch.voxels] - phi).square() @ share[batch.samples[batch.instances]]
    return background @ share + foreground_weight * foreground
