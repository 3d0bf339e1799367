"""The network in its inference form: the same function as `erfnet`, but faster.

Everything that only training needs is removed: dropout, separate batch normalisations, the
encoder's output layer. Convolutions, ReLUs and residuals are one step each
(`embedseg_large.network.convolution`), and the channels of a voxel are adjacent in memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from embedseg_large.network.convolution import (
    Convolution,
    Layer,
    channels_last,
    fold,
    scale_and_shift,
    through,
)
from embedseg_large.network.erfnet import BranchedERFNet, Decoder
from embedseg_large.network.layers import Downsampler, NonBottleneck1D, Upsampler
from embedseg_large.network.memory import Memory
from embedseg_large.network.winograd import faster

_FEW_CHANNELS = 8

_ROWS = 4096
"""Voxels that the output layer maps at a time: 48 products each are 0.8 MB."""


class _Fold(Protocol):
    """`fold` for one device and dtype."""

    def __call__(
        self, conv: nn.Module, bn: nn.Module | None, *, relu: bool = ...
    ) -> Convolution: ...


class InferenceNetwork:
    """A `BranchedERFNet` for inference only.

    Parameters
    ----------
    network
        The network, in evaluation mode; it is not changed, and nothing is shared with it.
    device
        ``cpu``, ``cuda`` or ``cuda:INDEX``.
    dtype
        Number format of all layers but the output layers. Those are float32: the raw sigma is
        multiplied by 10 and exponentiated, so its rounding error counts ten times.
    """

    def __init__(self, network: BranchedERFNet, device: str, dtype: torch.dtype) -> None:
        made: _Fold = partial(fold, device=device, dtype=dtype)
        encoder = network.encoder
        layers = [encoder.initial_block, *encoder.layers]
        self.dtype = dtype
        self._encoder = [_inference_layer(layer, made) for layer in layers]
        self._decoders = [_decoder(decoder, made, device) for decoder in network.decoders]

    def __call__(self, image: Tensor, memory: Memory | None = None) -> Tensor:
        """Compute the raw channels.

        Parameters
        ----------
        image
            float32 ``(n, in_channels, *spatial)`` on the device; every axis a multiple of 8.
        memory
            For intermediate results and the raw channels; None: new memory.

        Returns
        -------
        float32 ``(n, 2·ndim + 1, *spatial)``, contiguous, as `BranchedERFNet.forward`.
        """
        memory = memory or Memory()
        features = through(self._encoder, channels_last(image.to(self.dtype)), memory)
        channels = sum(output.channels for _, output in self._decoders)
        raw = memory.take(image, (len(image), channels, *image.shape[2:]))
        first = 0
        for layers, output in self._decoders:
            decoded = through(layers, features, memory)
            output(decoded, raw[:, first : first + output.channels])
            memory.give(decoded)
            first += output.channels
        memory.give(features)
        return raw


def _inference_layer(layer: nn.Module, made: _Fold) -> Layer:
    if isinstance(layer, Downsampler):
        return _Downsampling(layer, made)
    if isinstance(layer, NonBottleneck1D):
        return _NonBottleneck(layer, made)
    assert isinstance(layer, Upsampler)
    return made(layer.conv, layer.bn)


def _decoder(decoder: nn.Module, made: _Fold, device: str) -> tuple[list[Layer], _Output]:
    assert isinstance(decoder, Decoder)
    layers = [_inference_layer(layer, made) for layer in decoder.layers]
    return layers, _Output.of(decoder.output_conv, device)


class _Downsampling:
    """`Downsampler`: a strided convolution beside a max pooling.

    Concatenating the two copies both. If the pooling has few channels, the convolution makes room
    for them instead: it gets as many additional kernels of zeros, and the rounder number of
    channels even makes it faster.
    """

    def __init__(self, layer: Downsampler, made: _Fold) -> None:
        conv = made(layer.conv, layer.bn)
        self.kept = len(conv.bias)
        each_voxel = (-1, *(1,) * (conv.weight.ndim - 2))
        self.scale, self.shift = (
            part[self.kept :].detach().to(conv.weight).view(each_voxel)
            for part in scale_and_shift(layer.bn)
        )
        self.makes_room = len(self.scale) <= _FEW_CHANNELS
        self.conv = _with_zero_kernels(conv, len(self.scale)) if self.makes_room else conv

    def __call__(self, x: Tensor, memory: Memory) -> Tensor:
        """Map ``(n, inputs, *spatial)`` to ``(n, outputs, *spatial / 2)``."""
        y = self.conv(x, memory)
        pooled = halved(x, memory).mul_(self.scale).add_(self.shift).relu_()
        if self.makes_room:
            y[:, self.kept :] = pooled
            memory.give(pooled)
            return y
        shape = (len(x), self.kept + pooled.shape[1], *y.shape[2:])
        both = memory.take_channels_last(x, shape)
        both[:, : self.kept] = y
        both[:, self.kept :] = pooled
        memory.give(y)
        memory.give(pooled)
        return both


def _with_zero_kernels(conv: Convolution, count: int) -> Convolution:
    """Add output channels that are 0, to be overwritten."""
    shape = (count, *conv.weight.shape[1:])
    return replace(
        conv,
        weight=channels_last(torch.cat([conv.weight, conv.weight.new_zeros(shape)])),
        bias=torch.cat([conv.bias, conv.bias.new_zeros(count)]),
    )


def halved(x: Tensor, memory: Memory) -> Tensor:
    """Return the maximum of every two voxels along each spatial axis of (n, c, *spatial).

    A max pooling one axis at a time, which is several times faster on the CPU.
    """
    image = x
    for axis in range(2, x.ndim):
        every = (slice(None),) * axis
        near, far = x[(*every, slice(0, None, 2))], x[(*every, slice(1, None, 2))]
        larger = torch.maximum(near, far, out=memory.take_channels_last(x, near.shape))
        if x is not image:
            memory.give(x)
        x = larger
    return x


class _NonBottleneck:
    """`NonBottleneck1D`: twice along each axis, then the residual."""

    def __init__(self, layer: NonBottleneck1D, made: _Fold) -> None:
        rounds = ((layer.first, layer.bn1), (layer.second, layer.bn2))
        self.convs = [
            faster(made(layer.get_submodule(name), bn if name == names[-1] else None))
            for names, bn in rounds
            for name in names
        ]

    def __call__(self, x: Tensor, memory: Memory) -> Tensor:
        """Map ``(n, channels, *spatial)`` to the same shape; the result replaces `x`."""
        y = through(self.convs[:-1], x, memory)
        result = self.convs[-1].onto(y, x)
        memory.give(y)
        return result


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Output:
    """The transposed convolution with kernel and stride 2 at the end of a decoder.

    Its kernels do not overlap: each voxel becomes ``2 ** ndim`` by one matrix product, whose rows
    are then put into place.
    """

    weight: Tensor
    """float32 ``(2 ** ndim · channels, inputs)``: corner by corner, in raster order."""

    bias: Tensor
    """float32 ``(2 ** ndim · channels, 1)``."""

    channels: int
    """Number of output channels."""

    @classmethod
    def of(cls, conv: nn.Module, device: str) -> _Output:
        """Rearrange the kernels ``(inputs, channels, 2, ...)`` of a transposed convolution."""
        kernels = conv.get_parameter("weight").detach()
        bias = conv.get_parameter("bias").detach()
        rows = kernels.permute(*range(2, kernels.ndim), 1, 0).flatten(0, -2)
        return cls(
            weight=rows.to(device, torch.float32),
            bias=bias.repeat(len(rows) // len(bias)).to(device, torch.float32)[:, None],
            channels=len(bias),
        )

    def __call__(self, x: Tensor, out: Tensor) -> None:
        """Map ``(n, inputs, *spatial)`` into `out`, ``(n, channels, *spatial · 2)``.

        A few planes at a time, whose products stay in the cache.
        """
        thickness = max(1, _ROWS // math.prod(x.shape[3:]))
        planes = torch.split(x, thickness, dim=2), torch.split(out, 2 * thickness, dim=2)
        for some, doubled in zip(*planes, strict=True):
            self._double(some, doubled)

    def _double(self, x: Tensor, out: Tensor) -> None:
        n, _, *spatial = x.shape
        ndim = len(spatial)
        columns = x.flatten(2).float()
        rows = torch.baddbmm(self.bias, self.weight.expand(n, -1, -1), columns)
        corners = rows.view(n, *(2,) * ndim, self.channels, *spatial)
        # (n, channels, z, corner z, y, corner y, ...): every voxel before its corner along an axis
        pairs = [axis for d in range(ndim) for axis in (ndim + 2 + d, 1 + d)]
        ordered = corners.permute(0, ndim + 1, *pairs)
        sides = [n, self.channels, *(side for d in range(ndim) for side in (spatial[d], 2))]
        out.view(sides).copy_(ordered)
