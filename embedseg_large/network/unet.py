"""A U-Net: the baseline of the field, written once for 2D and 3D.

Three blocks of two convolutions down and three up, as in the baselines of the StarDist papers
(Schmidt et al. 2018, Weigert et al. 2020), with 32·2^k filters in block k::

    image ── 32 ──────────────────────────── 32 ──┬── head 0
              └ 64 ──────────────── 64 ──────┘    └── head 1 ...
                 └ 128 ──── 128 ────┘                              spatial axes:
                     └ 256 ──┘                                     multiples of 8
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedseg_large.network.convolution import Convolution, channels_last, fold, through
from embedseg_large.network.layers import batch_norm, conv, max_pool
from embedseg_large.network.memory import Memory

FILTERS = 32
DEPTH = 3


class Block(nn.Module):
    """Two convolutions, each with BN and ReLU."""

    def __init__(self, ndim: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = conv(ndim, inputs, outputs, kernel_size=3, padding=1)
        self.bn1 = batch_norm(ndim, outputs)
        self.conv2 = conv(ndim, outputs, outputs, kernel_size=3, padding=1)
        self.bn2 = batch_norm(ndim, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, inputs, *spatial)`` to ``(n, outputs, *spatial)``."""
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)))


class UNet(nn.Module):
    """The whole network.

    Parameters
    ----------
    ndim
        Number of spatial axes, 2 or 3.
    in_channels
        Number of image channels.
    heads
        Channels of each group of fields.
    """

    def __init__(self, ndim: int, in_channels: int, heads: Sequence[int]) -> None:
        super().__init__()
        filters = [FILTERS << k for k in range(DEPTH + 1)]
        inputs = [in_channels, *filters]
        blocks = [Block(ndim, a, b) for a, b in zip(inputs, filters, strict=False)]
        self.encoder = nn.ModuleList(blocks)
        self.decoder = nn.ModuleList(
            [Block(ndim, 3 * filters[k], filters[k]) for k in reversed(range(DEPTH))]
        )
        self.heads = nn.ModuleList([conv(ndim, FILTERS, n, kernel_size=1) for n in heads])
        self.pool = max_pool(ndim)

    def unused_parameters(self) -> list[nn.Parameter]:
        """Return unused parameters: none."""
        return []

    def forward(self, image: Tensor) -> Tensor:
        """Compute the raw channels, without activations.

        Parameters
        ----------
        image
            float ``(n, in_channels, *spatial)``, normalised; every axis a multiple of 8.

        Returns
        -------
        ``(n, channels, *spatial)``, of all heads.
        """
        passed: list[Tensor] = []
        x = image
        for block in self.encoder:
            x = block(self.pool(x) if passed else x)
            passed.append(x)
        for block, skip in zip(self.decoder, reversed(passed[:-1]), strict=True):
            x = block(torch.cat([doubled(x), skip], dim=1))
        return torch.cat([head(x) for head in self.heads], dim=1)


def doubled(x: Tensor) -> Tensor:
    """Repeat every voxel along each spatial axis of (n, c, *spatial)."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class UNetInference:
    """A `UNet` for inference only: normalisation folded in, ReLUs fused.

    Parameters
    ----------
    network
        The network, in evaluation mode; nothing is shared with it.
    device
        ``cpu``, ``cuda`` or ``cuda:INDEX``.
    dtype
        Number format of all layers but the heads, which are float32.
    """

    def __init__(self, network: UNet, device: str, dtype: torch.dtype) -> None:
        def folded(block: nn.Module) -> list[Convolution]:
            pairs = (("conv1", "bn1"), ("conv2", "bn2"))
            get = block.get_submodule
            return [fold(get(c), get(b), device=device, dtype=dtype) for c, b in pairs]

        self.dtype = dtype
        self._encoder = [folded(block) for block in network.encoder]
        self._decoder = [folded(block) for block in network.decoder]
        self._heads = [fold(head, None, relu=False, device=device) for head in network.heads]
        self._pool = network.pool

    def __call__(self, image: Tensor, memory: Memory | None = None) -> Tensor:
        """Compute the raw channels of float32 ``(n, in_channels, *spatial)``, float32."""
        memory, passed = memory or Memory(), list[Tensor]()
        x = channels_last(image.to(self.dtype))
        for block in self._encoder:
            x = through(block, self._pool(x) if passed else x, memory)
            passed.append(x)
        passed.pop()
        for block in self._decoder:
            joined = channels_last(torch.cat([doubled(x), passed.pop()], dim=1))
            x = through(block, joined, memory)
        exact = x.float()
        return torch.cat([head(exact, memory) for head in self._heads], dim=1).contiguous()
