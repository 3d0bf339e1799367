"""Linear filters of crops as one small matrix per axis.

Resampling and blurring are separable. A crop is so short along each axis that the whole filter of
an axis, its edges included, is a matrix of some tens of rows, and applying it a matrix product::

    out[i] = sum_j weights[i, j] * in[j]        along one axis, for all lines along it at once
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.geometry import Box
from embedseg_large.tiling import resampling

Weights = NDArray[np.float32]


def linear_weights(n_in: int, n_out: int) -> Weights:
    """Return the weights of `embedseg_large.tiling.resampling.linear_weights` as a full matrix.

    Returns
    -------
    float32 ``(n_out, n_in)``, every row adds up to 1.
    """
    full: Weights = resampling.linear_weights(n_in, n_out)[1].toarray()
    return full


def gaussian_weights(n: int, sigma: float) -> Weights:
    """Return the weights of a Gaussian of that standard deviation in voxels, above 0.

    Returns
    -------
    float32 ``(n, n)``, every row adds up to 1.
    """
    axis = np.arange(n)
    weights = np.exp(-0.5 * ((axis - axis[:, np.newaxis]) / sigma) ** 2)
    weights[weights < 1e-7] = 0  # as float32 they would be subnormal, and ten times slower
    return _normalised(weights)


def filtered(image: NDArray[np.float32], weights: Sequence[Weights | None]) -> NDArray[np.float32]:
    """Apply one matrix along each spatial axis.

    Parameters
    ----------
    image
        ``(..., *spatial)``.
    weights
        ``(n_out, n_in)`` for each spatial axis; None leaves the axis unchanged.

    Returns
    -------
    float32 ``(..., *spatial)``, with the lengths given by the matrices.
    """
    for axis, matrix in enumerate(weights, start=image.ndim - len(weights)):
        if matrix is not None:
            image = _along(image, matrix, axis)
    return image


def voted(labels: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """Resample labels by the weights of `linear_weights`: see `embedseg_large.voting`.

    Parameters
    ----------
    labels
        Integers ``(..., *spatial)``.
    shape
        The new number of voxels along each spatial axis.
    """
    before = labels.shape[labels.ndim - len(shape) :]
    if before == tuple(shape):
        return labels
    there, box = resampling.Resampling(tuple(shape), before), Box.whole(shape)
    leading = labels.shape[: labels.ndim - len(shape)]
    found = np.empty((*leading, *shape), labels.dtype)
    for at in np.ndindex(leading):
        found[at] = there.labels(labels[at], box)
    return found


def _normalised(weights: NDArray[np.float64]) -> Weights:
    scaled: Weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return scaled


def _along(image: NDArray[np.float32], matrix: Weights, axis: int) -> NDArray[np.float32]:
    """Multiply all lines along one axis by a matrix, without moving the axis to the end."""
    before, after = image.shape[:axis], image.shape[axis + 1 :]
    if not after:
        product: NDArray[np.float32] = image @ matrix.T
        return product
    lines = image.reshape(-1, image.shape[axis], int(np.prod(after)))
    return (matrix @ lines).reshape(*before, len(matrix), *after)
