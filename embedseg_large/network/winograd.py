"""Convolutions along one axis with half of the multiplications.

Four neighbours along the axis are the product of two polynomials: six voxels, and the kernel of
three. Instead of multiplying coefficients, 12 times, both are evaluated at six points, multiplied
there, and brought back: F(4, 3) of Winograd (1980), in the form of Lavin and Gray (2016). With
channels, each multiplication is a product of matrices, which takes nearly all of the time. What is
between is kept in the fastest caches, so a convolution reads its input once and writes its result
once, without a residual; oneDNN's in place reads it too.

In float32 only, and on processors with AVX2, for which it was measured.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import TYPE_CHECKING

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from embedseg_large.errors import cause
from embedseg_large.network import vectors
from embedseg_large.network.convolution import Convolution, channels_last, is_fused
from embedseg_large.network.vectors import BYTES, COLUMNS, LINE, ROWS

if TYPE_CHECKING:
    from torch import Tensor

    from embedseg_large.network.memory import Memory

logger = logging.getLogger(__name__)

_spread, _multiply = vectors.spread, vectors.multiply  # numba takes them as globals
_gather, _prefetch = vectors.gather, vectors.prefetch
_GROUPS = 2 * ROWS
"""Groups of four voxels that are computed together: their values stay in the cache."""
_GAIN = 0.8
"""Share of the direct products below which the detour is worth it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Winograd:
    """A convolution along one axis."""

    direct: Convolution
    """The same convolution, for axes too short for its dilation."""

    kernels: NDArray[np.float32]
    """``(outputs / COLUMNS, 6, inputs, COLUMNS)``: the kernel at the six points."""

    axis: int
    """The spatial axis."""

    def __call__(self, x: Tensor, memory: Memory) -> Tensor:
        """Map ``(n, channels, *spatial)`` to the same shape, in memory that was used before."""
        if not self._is_worthwhile(x):
            return self.direct(x, memory)
        out = memory.take_channels_last(x, x.shape)
        self._compute(x, out, onto=False)
        return out

    def onto(self, x: Tensor, residual: Tensor) -> Tensor:
        """Add the residual before the ReLU; the result replaces it."""
        if not self._is_worthwhile(x):
            return self.direct.onto(x, residual)
        self._compute(x, residual, onto=True)
        return residual

    def _is_worthwhile(self, x: Tensor) -> bool:
        length, dilation = x.shape[2 + self.axis], self.direct.dilation[0]
        inside = 3 * length - 2 * min(length, dilation)  # products with voxels of the image
        return 6 * len(_starts(length, dilation)) <= _GAIN * inside

    def _compute(self, x: Tensor, out: Tensor, *, onto: bool) -> None:
        spatial, dilation = x.shape[2:], self.direct.dilation[0]
        shape = (
            len(x) * prod(spatial[: self.axis]),
            spatial[self.axis],
            prod(spatial[self.axis + 1 :]),
        )
        bias, starts = self.direct.bias.numpy(), _starts(spatial[self.axis], dilation)
        _convolve(
            _flat(x), _flat(out), self.kernels, bias, shape, starts, dilation,
            _scratch(len(bias)), onto, self.direct.relu,
        )  # fmt: skip


def _flat(x: Tensor) -> NDArray[np.float32]:
    """Return all numbers of a tensor whose channels are adjacent, in the order of memory."""
    found: NDArray[np.float32] = x.movedim(1, -1).view(-1).numpy()
    return found


def _scratch(channels: int) -> NDArray[np.float32]:
    """Return memory for values and products at six points, a voxel outside, and one for results."""
    found: NDArray[np.float32] = torch.zeros(
        6 * _GROUPS * (channels + COLUMNS) + 2 * channels
    ).numpy()  # torch's memory begins with a line of the cache
    return found


def _starts(length: int, dilation: int) -> NDArray[np.int64]:
    """Return the first of each group of four voxels, `dilation` apart, that cover an axis."""
    phases = [np.arange(p, length, 4 * dilation) for p in range(min(dilation, length))]
    return np.concatenate(phases)


def faster(direct: Convolution) -> Convolution | Winograd:
    """Return the same convolution in its fastest form."""
    kernel = direct.weight.shape[2:]
    axis = [d for d, size in enumerate(kernel) if size != 1]
    is_along_one = len(axis) == 1 and kernel[axis[0]] == 3 and set(direct.stride) == {1}
    outputs, inputs = direct.weight.shape[:2]
    is_plain = is_along_one and direct.padding[axis[0]] == direct.dilation[axis[0]]
    if not (is_plain and outputs == inputs and outputs % COLUMNS == 0 and _is_suitable(direct)):
        return direct
    return Winograd(direct=direct, kernels=_kernels(direct), axis=axis[0])


def _is_suitable(direct: Convolution) -> bool:
    weight = direct.weight
    return weight.dtype == torch.float32 and is_fused(weight) and is_available()


def _kernels(direct: Convolution) -> NDArray[np.float32]:
    outputs, inputs = direct.weight.shape[:2]
    kernel = direct.weight.double().reshape(outputs, inputs, 3).numpy()
    at_points = vectors.spread_kernel(kernel).reshape(-1, COLUMNS, inputs, 6)
    aligned = torch.from_numpy(at_points.transpose(0, 3, 2, 1)).float().contiguous()
    found: NDArray[np.float32] = aligned.numpy()
    return found


@cache
def is_available() -> bool:
    """Whether this processor has AVX2, and the compiled form agrees with the direct one."""
    if torch.backends.cpu.get_cpu_capability() != "AVX2" or vars(numba.config)["DISABLE_JIT"]:
        return False
    try:
        return _agrees()
    except Exception as error:  # whatever another LLVM makes of it
        logger.warning("slower convolutions, the compiled ones failed: %s", cause(error))
        return False


@torch.inference_mode()
def _agrees() -> bool:
    x = channels_last((torch.arange(16 * 7.0).view(1, 16, 7, 1) % 5) - 2)
    weight = channels_last((torch.arange(16 * 16 * 3.0).view(16, 16, 3, 1) % 7) - 3)
    ones = (1, 1)
    direct = Convolution(
        weight=weight, bias=weight.new_ones(16), stride=ones, padding=(1, 0), dilation=ones
    )
    found = Winograd(direct=direct, kernels=_kernels(direct), axis=0)
    out = torch.empty_like(x)
    found._compute(x, out, onto=False)
    return torch.allclose(out, direct.plain(x), atol=0.01)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _convolve(
    x: NDArray[np.float32],
    out: NDArray[np.float32],
    kernels: NDArray[np.float32],
    bias: NDArray[np.float32],
    shape: tuple[int, int, int],
    starts: NDArray[np.int64],
    dilation: int,
    scratch: NDArray[np.float32],
    onto: bool,
    relu: bool,
) -> None:
    """Convolve ``(outer, length, inner, channels)``, flat, along its second axis.

    Voxels outside are 0; results outside go to a place that nobody reads. Both are in `scratch`,
    as is everything between: an array made here would be freed once its address is known.
    """
    outer, length, inner = shape
    channels, groups = len(bias), len(starts)
    row, part = 4 * channels, 2 * BYTES
    value_step, product_step, step = _GROUPS * row, _GROUPS * part, inner * row * dilation
    value = _address(scratch)
    product = value + 6 * value_step
    zero = product + 6 * product_step
    dump = zero + row
    image, result, kernel, shift = _address(x), _address(out), _address(kernels), _address(bias)
    sources, targets = np.empty(6, np.int64), np.empty((_GROUPS, 4), np.int64)
    a = k = b = 0
    for first in range(0, outer * groups * inner, _GROUPS):
        count = min(_GROUPS, outer * groups * inner - first)
        for t in range(count):
            offset = ((a * length + starts[k]) * inner + b) * row
            for j in range(6):
                is_inside = 0 <= starts[k] + (j - 1) * dilation < length
                sources[j] = image + offset + (j - 1) * step if is_inside else zero
            for j in range(4):
                is_inside = starts[k] + j * dilation < length
                targets[t, j] = result + offset + j * step if is_inside else dump
                for c in range(0, row, LINE):
                    _prefetch(targets[t, j] + c)
            for c in range(0, row, BYTES):
                _spread(
                    sources[0] + c, sources[1] + c, sources[2] + c, sources[3] + c,
                    sources[4] + c, sources[5] + c, value + t * row + c, value_step,
                )  # fmt: skip
            b += 1
            if b == inner:
                b, k = 0, k + 1
            if k == groups:
                k, a = 0, a + 1
        for panel in range(channels // COLUMNS):
            for j in range(6):
                right = kernel + (panel * 6 + j) * row * COLUMNS
                for t in range(0, count, ROWS):
                    left, to = value + j * value_step + t * row, product + j * product_step
                    _multiply(left, row, right, to + t * part, part, channels)
            for t in range(count):
                for c in range(0, part, BYTES):
                    e = panel * part + c
                    _gather(
                        product + t * part + c, product_step, shift + e, targets[t, 0] + e,
                        targets[t, 1] + e, targets[t, 2] + e, targets[t, 3] + e, onto, relu,
                    )  # fmt: skip


@numba.njit(cache=True)
def _address(array: NDArray[np.float32]) -> np.int64:
    """Return where an array starts, signed: sums of signed and unsigned are float64."""
    return np.int64(array.ctypes.data)
