"""The three layers of ERFNet, for any number of spatial axes.

Tensors are ``(n, c, *spatial)`` with spatial axes z, y, x or y, x. Modules and attributes have the
names they have in checkpoints of the original program, so that these load unchanged.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH_NORM_EPS = 1e-3

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_CONV_TRANSPOSE = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_BATCH_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_MAX_POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_DROPOUT = {2: nn.Dropout2d, 3: nn.Dropout3d}


def conv(ndim: int, inputs: int, outputs: int, **geometry: Any) -> nn.Module:
    """Return a convolution over that many axes."""
    return _CONV[ndim](inputs, outputs, **geometry)


def conv_transpose(ndim: int, inputs: int, outputs: int, **geometry: Any) -> nn.Module:
    """Return a transposed convolution over that many axes."""
    return _CONV_TRANSPOSE[ndim](inputs, outputs, **geometry)


def batch_norm(ndim: int, channels: int) -> nn.Module:
    """Return a batch normalisation over that many axes."""
    return _BATCH_NORM[ndim](channels, eps=BATCH_NORM_EPS)


def max_pool(ndim: int) -> nn.Module:
    """Return a max pooling of every two voxels along that many axes."""
    return _MAX_POOL[ndim](2, stride=2)


class Downsampler(nn.Module):
    """Halve each axis: a strided convolution beside a max pooling, then BN and ReLU.

    The convolution gives ``outputs - inputs`` channels, the pooling keeps the `inputs`.
    """

    def __init__(self, ndim: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = conv(ndim, inputs, outputs - inputs, kernel_size=3, stride=2, padding=1)
        self.pool = _MAX_POOL[ndim](kernel_size=2, stride=2)
        self.bn = batch_norm(ndim, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, inputs, *spatial)`` to ``(n, outputs, *spatial / 2)``."""
        return F.relu(self.bn(torch.cat([self.conv(x), self.pool(x)], dim=1)))


class NonBottleneck1D(nn.Module):
    """A residual layer of convolutions along one axis at a time, the second round dilated.

    Dilation widens the view of each voxel and keeps their number; padding equals dilation.
    """

    def __init__(self, ndim: int, channels: int, dropout: float, dilation: int) -> None:
        super().__init__()
        self.first = self._add_convs(ndim, channels, dilation=1, suffix="_1")
        self.bn1 = batch_norm(ndim, channels)
        self.second = self._add_convs(ndim, channels, dilation=dilation, suffix="_2")
        self.bn2 = batch_norm(ndim, channels)
        self.dropout = _DROPOUT[ndim](dropout)

    def _add_convs(self, ndim: int, channels: int, dilation: int, suffix: str) -> list[str]:
        """Add a convolution along each axis, named by its kernel, and return the names."""
        names = []
        for axis in range(ndim):
            kernel = tuple(3 if d == axis else 1 for d in range(ndim))
            padding = tuple(dilation if d == axis else 0 for d in range(ndim))
            layer = conv(
                ndim, channels, channels, kernel_size=kernel, padding=padding, dilation=dilation
            )
            names.append(f"conv{'x'.join(map(str, kernel))}{suffix}")
            self.add_module(names[-1], layer)
        return names

    def _along_each_axis(self, x: Tensor, names: list[str]) -> Tensor:
        for number, name in enumerate(names):
            x = self.get_submodule(name)(F.relu(x) if number else x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, channels, *spatial)`` to the same shape."""
        y = F.relu(self.bn1(self._along_each_axis(x, self.first)))
        y = self.bn2(self._along_each_axis(y, self.second))
        return F.relu(self.dropout(y) + x)


class Upsampler(nn.Module):
    """Double each axis: a transposed convolution, BN and ReLU."""

    def __init__(self, ndim: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = conv_transpose(
            ndim, inputs, outputs, kernel_size=3, stride=2, padding=1, output_padding=1
        )
        self.bn = batch_norm(ndim, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, inputs, *spatial)`` to ``(n, outputs, *spatial · 2)``."""
        return F.relu(self.bn(self.conv(x)))
