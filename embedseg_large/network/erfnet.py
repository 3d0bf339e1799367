"""The network of EmbedSeg: a branched ERFNet, written once for 2D and 3D.

One encoder and two decoders (Lalit et al. 2021, after Neven et al. 2019 and Romera et al. 2018)::

    image ── Encoder ──┬── Decoder 0 ── offsets x, y, z, sigmas x, y, z     spatial axes:
             1/8       └── Decoder 1 ── seed                                multiples of 8

Names of modules are those of checkpoints of the original program.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from embedseg_large.embedding import channel_count
from embedseg_large.network.layers import (
    Downsampler,
    NonBottleneck1D,
    Upsampler,
    conv,
    conv_transpose,
)

FILTERS = 16
"""Channels behind the first layer."""
MOST_CHANNELS = FILTERS - 1
"""Most image channels: the first layer hands each of them on, and adds at least one."""


class Encoder(nn.Module):
    """Three halvings; dilated residual layers at the coarsest scale see far."""

    def __init__(self, ndim: int, in_channels: int, *, is_original: bool = True) -> None:
        super().__init__()
        self.initial_block = Downsampler(ndim, in_channels, FILTERS)
        self.layers = nn.ModuleList(
            [
                Downsampler(ndim, FILTERS, 64),
                *(NonBottleneck1D(ndim, 64, dropout=0.03, dilation=1) for _ in range(5)),
                Downsampler(ndim, 64, 128),
                *(
                    NonBottleneck1D(ndim, 128, dropout=0.3, dilation=dilation)
                    for _ in range(2)
                    for dilation in (2, 4, 8, 16)
                ),
            ]
        )
        if is_original:  # never used, but part of every checkpoint of the original
            self.output_conv = conv(ndim, 128, channel_count(ndim), kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        """Map ``(n, in_channels, *spatial)`` to ``(n, 128, *spatial / 8)``."""
        x: Tensor = self.initial_block(image)
        for layer in self.layers:
            x = layer(x)
        return x


class Decoder(nn.Module):
    """Three doublings, back to the scale of the image."""

    def __init__(self, ndim: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                Upsampler(ndim, 128, 64),
                *(NonBottleneck1D(ndim, 64, dropout=0, dilation=1) for _ in range(2)),
                Upsampler(ndim, 64, 16),
                *(NonBottleneck1D(ndim, 16, dropout=0, dilation=1) for _ in range(2)),
            ]
        )
        self.output_conv = conv_transpose(ndim, 16, outputs, kernel_size=2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, 128, *spatial / 8)`` to ``(n, outputs, *spatial)``."""
        for layer in self.layers:
            x = layer(x)
        output: Tensor = self.output_conv(x)
        return output


class BranchedERFNet(nn.Module):
    """The whole network.

    Parameters
    ----------
    ndim
        Number of spatial axes, 2 or 3.
    in_channels
        Number of image channels, at most `MOST_CHANNELS`.
    heads
        Channels of each decoder, for another method; None: those of EmbedSeg.
    """

    def __init__(self, ndim: int, in_channels: int = 1, heads: Sequence[int] | None = None) -> None:
        super().__init__()
        self.ndim = ndim
        self.encoder = Encoder(ndim, in_channels, is_original=heads is None)
        outputs = (2 * ndim, 1) if heads is None else heads
        self.decoders = nn.ModuleList([Decoder(ndim, n) for n in outputs])
        if heads is None:
            self._start_undecided()

    def unused_parameters(self) -> list[nn.Parameter]:
        """Return parameters that take no part in what the network computes."""
        output = getattr(self.encoder, "output_conv", None)
        return [] if output is None else list(output.parameters())

    @torch.no_grad()
    def _start_undecided(self) -> None:
        """Let every voxel point at itself (offset 0) with a raw sigma of 1, as in the original."""
        output = self.decoders[0].get_submodule("output_conv")
        for parameter in output.parameters():
            parameter.zero_()
        output.get_parameter("bias")[self.ndim :].fill_(1)

    def forward(self, image: Tensor) -> Tensor:
        """Compute the raw channels, without activations.

        Parameters
        ----------
        image
            float ``(n, in_channels, *spatial)``, normalised; every axis a multiple of 8.

        Returns
        -------
        ``(n, channels, *spatial)``, of all decoders; for EmbedSeg 2·ndim + 1 in the original's
        order: offset x, y, z, sigma x, y, z, seed.
        """
        features = self.encoder(image)
        return torch.cat([decoder(features) for decoder in self.decoders], dim=1)
