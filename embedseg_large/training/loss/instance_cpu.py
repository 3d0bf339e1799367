"""The instance term on the CPU: value and gradient together, compiled, in the memory of one crop.

The term compares every instance with every voxel of its crop, 5.8 million pairs for two crops of
32 x 64 x 64 voxels with 22 objects each, and sorts them by error. Most of them can be left out
*exactly*. With phi the Gaussian of a pair, hinge errors are 2 (1 - phi) in the instance's mask and
2 phi outside, and once all voxels of the mask have been passed in descending order of error, the
Jaccard index has reached its end and every further weight is 0. So a voxel outside the mask counts
only if

    phi > 1 - (the largest phi in the mask)   and   2 phi - 1 > -1 in the numbers at hand.

Instead of errors, exponents are compared: ``q = -log phi`` outside, and for the mask its mirror
image ``-log(1 - phi)``, so that only the few voxels of the mask need a logarithm.

For each instance:

1. Gaussians of its own voxels, and from them the largest exponent that counts;
2. one scan of the crop that collects the others that count;
3. both groups sorted by exponent;
4. a walk through both in descending order of error, which weights every pair;
5. the gradient, added up voxel by voxel.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]
"""float32 throughout, or float64 throughout."""
Ints = NDArray[np.int64]

_STEP = 256
"""Voxels whose exponents are computed at once: few enough for the fastest cache."""
_DIGIT = 12
"""Bits of a digit of the radix sort; two digits are as fine as float32."""


class Gaussians(NamedTuple):
    """Input of the instance term, in the network's unit of length.

    Instance k has the Gaussian ``exp(-sum_d precisions[k, d] (embedding[:, d] - centers[k, d])²)``.
    """

    embedding: Floats
    """``(samples, ndim, voxels)``: where each voxel points."""
    centers: Floats
    """``(K, ndim)``."""
    precisions: Floats
    """``(K, ndim)``."""


class Members(NamedTuple):
    """Which voxels belong to which instance, as in `embedseg_large.training.data.targets.Batch`."""

    annotated: NDArray[np.bool_]
    """``(samples, voxels)``."""
    voxels: Ints
    """``(memberships,)``: flat index into ``(samples, voxels)``, grouped by instance."""
    starts: Ints
    """``(K + 1,)``: number of memberships before each instance; ascending, none is empty."""
    samples: Ints
    """``(K,)``, ascending."""


class TermGradients(NamedTuple):
    """The Lovász hinge of every instance, and the gradient of their weighted sum."""

    losses: Floats
    """``(K,)``."""
    phi: Floats
    """``(memberships,)``: the Gaussian of each instance at its own voxels."""
    overlaps: Floats
    """``(K,)``: intersection over union of ``phi > 0.5`` and the mask."""
    embedding: Floats
    """``(samples, ndim, voxels)``: gradient."""
    precisions: Floats
    """``(K, ndim)``: gradient."""


class _One(NamedTuple):
    """One Gaussian over one crop."""

    embedding: Floats  # (ndim, voxels)
    center: Floats  # (ndim,)
    precision: Floats  # (ndim,)


class _Scratch(NamedTuple):
    """Buffers that instances use in turn, each ``(voxels,)``."""

    skipped: NDArray[np.bool_]
    voxels: NDArray[np.int32]
    exponents: Floats


def instance_term(
    gaussians: Gaussians, members: Members, weights: Floats, threads: int
) -> TermGradients:
    """Compute the Lovász hinge of all instances, and the gradient of its sum with `weights` (K,).

    Samples are distributed over threads. Each sample is processed by one thread, instance by
    instance, so the result does not depend on the number of threads.
    """
    dtype = gaussians.embedding.dtype
    outcome = TermGradients(
        losses=np.zeros(len(weights), dtype),
        phi=np.zeros(len(members.voxels), dtype),
        overlaps=np.zeros(len(weights), dtype),
        embedding=np.zeros_like(gaussians.embedding),
        precisions=np.zeros_like(gaussians.precisions),
    )
    count = len(gaussians.embedding)
    bounds = np.linspace(0, count, min(threads, count) + 1).astype(int)
    cuts = np.searchsorted(members.samples, bounds)
    with ThreadPoolExecutor(len(cuts) - 1) as pool:
        lanes = [
            pool.submit(_instances, gaussians, members, weights, first, last, outcome)
            for first, last in pairwise(cuts)
        ]
    for lane in lanes:
        lane.result()
    return outcome


@numba.njit(cache=True, nogil=True)
def _instances(
    gaussians: Gaussians,
    members: Members,
    weights: Floats,
    first: int,
    last: int,
    outcome: TermGradients,
) -> None:  # pragma: no cover - compiled
    """Handle the instances from `first` to before `last`."""
    size, dtype = gaussians.embedding.shape[2], gaussians.embedding.dtype
    scratch = _Scratch(np.empty(size, np.bool_), np.empty(size, np.int32), np.empty(size, dtype))
    for k in range(first, last):
        sample = members.samples[k]
        span = slice(members.starts[k], members.starts[k + 1])
        own = (members.voxels[span] - sample * size).astype(np.int32)
        one = _One(gaussians.embedding[sample], gaussians.centers[k], gaussians.precisions[k])
        gradient = outcome.embedding[sample], outcome.precisions[k]
        if k == first or sample != members.samples[k - 1]:
            scratch.skipped[:] = ~members.annotated[sample]
        scratch.skipped[own] = True
        outcome.losses[k], outcome.overlaps[k] = _instance(
            one, own, weights[k], scratch, outcome.phi[span], gradient
        )
        scratch.skipped[own] = False


@numba.njit(cache=True, nogil=True)
def _instance(
    one: _One,
    own: NDArray[np.int32],
    weight: float,
    scratch: _Scratch,
    phi: Floats,
    gradient: tuple[Floats, Floats],
) -> tuple[float, float]:  # pragma: no cover - compiled
    """Return loss and overlap of an instance; write its Gaussian and add to the gradient."""
    mirrored = np.empty_like(phi)
    inside = _own_gaussian(one, own, phi, mirrored)
    n = _collect(one, _reach(mirrored), scratch)
    others, exponents = scratch.voxels[:n], scratch.exponents[:n]
    # if no voxel of the mask is inside, others may be missing, but the overlap is 0 anyway
    overlap = inside / (len(own) + (exponents < np.log(2.0)).sum())
    slopes = np.empty_like(mirrored), np.empty_like(exponents)
    loss = _walk(mirrored, np.argsort(mirrored), exponents, _argsort(exponents), slopes)
    _descend(one, own, slopes[0], weight, gradient)
    _descend(one, others, slopes[1], weight, gradient)
    return loss, overlap


@numba.njit(cache=True, nogil=True)
def _own_gaussian(
    one: _One, own: NDArray[np.int32], phi: Floats, mirrored: Floats
) -> int:  # pragma: no cover - compiled
    """Write the Gaussian of the instance's voxels, and -log(1 - phi); count phi > 0.5."""
    unit = phi.dtype.type(1)
    inside = 0
    for i in range(len(own)):
        q = phi.dtype.type(0)
        for d in range(len(one.center)):
            step = one.embedding[d, own[i]] - one.center[d]
            q += one.precision[d] * step * step
        rest = -np.expm1(-q)  # exact near the centre, where phi rounds to 1
        phi[i] = np.exp(-q)
        mirrored[i] = abs(np.log(min(rest, unit)))  # abs: 0, never -0
        inside += phi[i] > 0.5
    return inside


@numba.njit(cache=True, nogil=True)
def _reach(mirrored: Floats) -> Any:  # pragma: no cover - compiled
    """Return the exponent from which on voxels outside the mask do not count."""
    vanishing = np.finfo(mirrored.dtype).eps / 4  # 2 phi - 1 rounds to -1
    return min(mirrored.max(), mirrored.dtype.type(-np.log(vanishing)))


@numba.njit(cache=True, nogil=True)
def _collect(one: _One, reach: Any, scratch: _Scratch) -> int:  # pragma: no cover - compiled
    """Collect the voxels of exponent below `reach` that are not skipped; return their number."""
    n = 0
    size = len(scratch.skipped)
    q = np.empty(_STEP, scratch.exponents.dtype)
    for begin in range(0, size, _STEP):
        part = q[: min(_STEP, size - begin)]
        _exponents(one, begin, part)
        if not _any_below(part, reach):
            continue
        for i in range(len(part)):
            if part[i] < reach and not scratch.skipped[begin + i]:
                scratch.voxels[n] = begin + i
                scratch.exponents[n] = part[i]
                n += 1
    return n


@numba.njit(cache=True, nogil=True)
def _exponents(one: _One, begin: int, q: Floats) -> None:  # pragma: no cover - compiled
    """Write the exponents of consecutive voxels; loops that compile to vector instructions."""
    q[:] = 0
    for d in range(len(one.center)):
        row = one.embedding[d, begin : begin + len(q)]
        center, precision = one.center[d], one.precision[d]
        for i in range(len(q)):
            step = row[i] - center
            q[i] += precision * step * step


@numba.njit(cache=True, nogil=True, fastmath={"reassoc"})
def _any_below(values: Floats, limit: Any) -> bool:  # pragma: no cover - compiled
    """Return whether any of few values lies below the limit."""
    n = values.dtype.type(0)  # of the values' width, or their comparison is not vectorised
    for i in range(len(values)):
        n += values.dtype.type(1) if values[i] < limit else values.dtype.type(0)
    return bool(n > 0)


@numba.njit(cache=True, nogil=True)
def _argsort(values: Floats) -> NDArray[np.int32]:  # pragma: no cover - compiled
    """Return the ascending order of non-negative values, as fine as float32: a radix sort."""
    n, size = len(values), 1 << _DIGIT
    keys = np.empty(n, np.int32)
    scale = (size * size - 1) / max(values.max(), 1e-30) if n else 0.0
    counts = np.zeros((2, size + 1), np.int32)
    for i in range(n):
        keys[i] = np.int32(values[i] * scale)
        counts[0, (keys[i] & (size - 1)) + 1] += 1
        counts[1, (keys[i] >> _DIGIT) + 1] += 1
    low, high = np.cumsum(counts[0]), np.cumsum(counts[1])
    halfway, order = np.empty(n, np.int32), np.empty(n, np.int32)
    for i in range(n):
        digit = keys[i] & (size - 1)
        halfway[low[digit]] = i
        low[digit] += 1
    for i in range(n):
        digit = keys[halfway[i]] >> _DIGIT
        order[high[digit]] = halfway[i]
        high[digit] += 1
    return order


@numba.njit(cache=True, nogil=True)
def _walk(
    mirrored: Floats,
    own: NDArray[np.int64],
    exponents: Floats,
    others: NDArray[np.int32],
    slopes: tuple[Floats, Floats],
) -> float:  # pragma: no cover - compiled
    """Return the Lovász hinge, and write its derivatives by the exponents of own and others.

    After `p` of the P voxels of the mask and `n` others the Jaccard index (as a loss) is
    ``1 - (P - p) / (P + n)``. A pair's weight is its increase, here in closed form.
    """
    size, n, loss = len(own), 0, 0.0
    slopes[1][:] = 0
    for p in range(size):
        rank = mirrored[own[p]]
        while n < len(others) and exponents[others[n]] < rank:
            weight = 2.0 * (size - p) / (float(size + n) * float(size + n + 1))
            error = weight * np.exp(-exponents[others[n]])
            slopes[1][others[n]] = -error
            loss += error
            n += 1
        weight, rest = 2.0 / (size + n), np.exp(-rank)
        slopes[0][own[p]] = weight * (1 - rest)
        loss += weight * rest
    return loss


@numba.njit(cache=True, nogil=True)
def _descend(
    one: _One,
    voxels: NDArray[np.int32],
    slopes: Floats,
    weight: float,
    gradient: tuple[Floats, Floats],
) -> None:  # pragma: no cover - compiled
    """Add `weight` times the gradient, from derivatives by the exponents of some voxels."""
    for d in range(len(one.center)):
        center, total = one.center[d], 0.0
        factor = 2 * weight * one.precision[d]
        row, out = one.embedding[d], gradient[0][d]
        for i in range(len(voxels)):
            step = row[voxels[i]] - center
            out[voxels[i]] += factor * slopes[i] * step
            total += slopes[i] * step * step
        gradient[1][d] += weight * total
