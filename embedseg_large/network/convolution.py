"""Convolutions for inference: batch normalisation folded in, residual and ReLU fused.

On the CPU, a convolution of this network is limited by memory bandwidth as often as by arithmetic,
and each ReLU or sum after it reads and writes everything again. oneDNN does both while a value is
in a register. Torch has operators for that, intended for its compiler; they are called directly,
without compilation. If they are missing, the same is computed in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedseg_large.network.memory import Memory

_PLANES = 16
"""Planes that a transposed convolution doubles at a time; it computes one more each time."""
_CONV: dict[int, Callable[..., Tensor]] = {2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE: dict[int, Callable[..., Tensor]] = {2: F.conv_transpose2d, 3: F.conv_transpose3d}


def channels_last(x: Tensor) -> Tensor:
    """Return ``(n, c, *spatial)`` with the channels of a voxel adjacent in memory."""
    last = x.movedim(1, -1).contiguous()
    # strides that say so even if there is one channel: torch goes by them, and would convert
    return last.view(-1).view(last.shape).movedim(-1, 1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Convolution:
    """A convolution, transposed or not, and the operations that follow it."""

    weight: Tensor
    """``(outputs, inputs, *kernel)``; ``(inputs, outputs, *kernel)`` if transposed."""

    bias: Tensor
    """``(outputs,)``."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]

    output_padding: Sequence[int] | None = None
    """Voxels added at the far end by a transposed convolution; None: it is not transposed."""

    relu: bool = False
    """Whether negative results become 0."""

    def __call__(self, x: Tensor, memory: Memory) -> Tensor:
        """Map ``(n, inputs, *spatial)``, in memory that was used before if the processor can."""
        if not is_fused(x):
            return self.plain(x)
        if self.output_padding is not None:
            return self._doubled(x, memory) if self._doubles else self.fused(x)
        return self.fused_onto(x, memory.take_channels_last(x, self._shape_of(x)).zero_())

    @property
    def _doubles(self) -> bool:
        """Whether it is a transposed convolution of the network: two voxels for each one."""
        kernel, geometry = self.weight.shape[2:], (self.stride, self.padding, self.output_padding)
        return set(kernel) == {3} and [set(part or ()) for part in geometry] == [{2}, {1}, {1}]

    def _doubled(self, x: Tensor, memory: Memory) -> Tensor:
        """Double a few planes at a time: oneDNN does not do it in memory that is given.

        Two planes of the result depend on one plane and the next.
        """
        shape = (len(x), len(self.bias), *(2 * side for side in x.shape[2:]))
        out = memory.take_channels_last(x, shape)
        for start in range(0, x.shape[2], _PLANES):
            stop = min(start + _PLANES, x.shape[2])
            some = self.fused(x[:, :, start : stop + 1])
            out[:, :, 2 * start : 2 * stop] = some[:, :, : 2 * (stop - start)]
        return out

    def _shape_of(self, x: Tensor) -> tuple[int, ...]:
        """Return the shape of the result; not transposed."""
        kernel, spatial = self.weight.shape[2:], x.shape[2:]
        axes = zip(spatial, kernel, self.stride, self.padding, self.dilation, strict=True)
        sides = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes)
        return len(x), len(self.bias), *sides

    def onto(self, x: Tensor, residual: Tensor) -> Tensor:
        """Add the residual before the ReLU; the result replaces it."""
        return self.fused_onto(x, residual) if is_fused(x) else self.plain_onto(x, residual)

    def plain(self, x: Tensor) -> Tensor:
        """Compute step by step, each in place."""
        y = self._convolved(x)
        return y.relu_() if self.relu else y

    def plain_onto(self, x: Tensor, residual: Tensor) -> Tensor:
        """Compute step by step, with a residual."""
        residual += self._convolved(x)
        return residual.relu_() if self.relu else residual

    def _convolved(self, x: Tensor) -> Tensor:
        ndim, around = x.ndim - 2, (self.stride, self.padding)
        if self.output_padding is None:
            return _CONV[ndim](x, self.weight, self.bias, *around, self.dilation)
        last = {"output_padding": self.output_padding, "dilation": self.dilation}
        return _CONV_TRANSPOSE[ndim](x, self.weight, self.bias, *around, **last)

    def fused(self, x: Tensor) -> Tensor:
        """Compute in one operator of oneDNN."""
        operators, attribute = torch.ops.mkldnn, "relu" if self.relu else "none"
        geometry: list[Any] = [self.padding, self.stride, self.dilation, 1]
        compute = operators._convolution_pointwise
        if self.output_padding is not None:
            geometry.insert(1, self.output_padding)
            compute = operators._convolution_transpose_pointwise
        y: Tensor = compute(x, self.weight, self.bias, *geometry, attribute, [], "")
        return y

    def fused_onto(self, x: Tensor, residual: Tensor) -> Tensor:
        """Compute in one operator of oneDNN, with a residual; not transposed."""
        geometry: list[Any] = [self.padding, self.stride, self.dilation, 1]
        last = "relu" if self.relu else None
        y: Tensor = torch.ops.mkldnn._convolution_pointwise_.binary(
            residual, x, self.weight, self.bias, *geometry, "add", 1.0, last, [], ""
        )
        return y


Layer = Callable[[Tensor, Memory], Tensor]
"""Maps ``(n, inputs, *spatial)`` to ``(n, outputs, *spatial)``, new or in place."""


def through(layers: Iterable[Layer], image: Tensor, memory: Memory) -> Tensor:
    """Map through all layers; the first one must leave its input as it is."""
    x = image
    for layer in layers:
        y = layer(x, memory)
        if y is not x and x is not image:
            memory.give(x)
        x = y
    return x


def is_fused(x: Tensor) -> bool:
    """Whether convolutions of such a tensor use oneDNN's operators, with adjacent channels."""
    return x.device.type == "cpu" and has_fused_operators(x.dtype)


@torch.no_grad()
def fold(
    conv: nn.Module,
    bn: nn.Module | None,
    *,
    relu: bool = True,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Convolution:
    """Return a convolution that includes the batch normalisation after it.

    If the batch normalisation has more channels than the convolution, its first channels apply.
    The weights are folded in float64 and rounded once.

    Parameters
    ----------
    conv
        A convolution of torch with a bias, of 2 or 3 axes, transposed or not.
    bn
        The batch normalisation, with running statistics; None: there is none.
    relu
        Whether a ReLU follows.
    device, dtype
        Device and number format of the weights.
    """
    assert isinstance(conv, nn.modules.conv._ConvNd)
    weight, bias = conv.weight.double(), conv.get_parameter("bias").double()
    if bn is not None:
        scale, shift = (part[: len(bias)] for part in scale_and_shift(bn))
        outputs_axis = 1 if conv.transposed else 0
        weight = weight * scale.view([-1 if d == outputs_axis else 1 for d in range(weight.ndim)])
        bias = bias * scale + shift
    return Convolution(
        weight=channels_last(weight.to(device, dtype)),
        bias=bias.to(device, dtype),
        stride=conv.stride,
        padding=tuple(int(p) for p in conv.padding),
        dilation=conv.dilation,
        output_padding=conv.output_padding if conv.transposed else None,
        relu=relu,
    )


def scale_and_shift(bn: nn.Module) -> tuple[Tensor, Tensor]:
    """Return what a batch normalisation does to each channel with its running statistics.

    Returns
    -------
    float64 ``(channels,)`` each: the normalisation maps x to ``scale · x + shift``.
    """
    assert isinstance(bn, nn.modules.batchnorm._BatchNorm)
    assert bn.running_mean is not None
    assert bn.running_var is not None
    scale = bn.weight.double() / torch.sqrt(bn.running_var.double() + bn.eps)
    return scale, bn.bias.double() - bn.running_mean.double() * scale


@cache
def has_fused_operators(dtype: torch.dtype) -> bool:
    """Whether torch's fused operators are available and compute the same as the plain ones.

    They are intended for torch's compiler, so another release may change them. Processors without
    AVX2 have no kernels for adjacent channels.
    """
    if torch.backends.cpu.get_cpu_capability() not in {"AVX2", "AVX512"}:
        return False
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    try:
        return dtype != torch.float16 and all(_agrees(ndim, dtype) for ndim in (2, 3))
    except (AttributeError, RuntimeError, TypeError):  # missing, or with other parameters
        return False


@torch.inference_mode()
def _agrees(ndim: int, dtype: torch.dtype) -> bool:
    """Compare fused and plain convolutions with numbers that need no rounding."""
    x = channels_last(torch.arange(16 * 4**ndim).view(1, 16, *(4,) * ndim).remainder(5) - 2.0)
    weight = channels_last(torch.arange(16 * 16 * 3**ndim).view(16, 16, *(3,) * ndim) % 3 - 1.0)
    x, weight = x.to(dtype), weight.to(dtype)
    one, two = (1,) * ndim, (2,) * ndim
    straight = Convolution(
        weight=weight,
        bias=weight.new_ones(16),
        stride=one,
        padding=one,
        dilation=one,
        relu=True,
    )
    halving = replace(straight, stride=two)
    doubling = replace(halving, output_padding=one)
    pairs = [(c.fused(x), c.plain(x)) for c in (straight, halving, doubling)]
    for c, onto in ((straight, x), (halving, halving.plain(x))):
        pairs.append((c.fused_onto(x, onto.clone()), c.plain_onto(x, onto.clone())))
    return all(torch.allclose(a.float(), b.float(), rtol=0.01) for a, b in pairs)
