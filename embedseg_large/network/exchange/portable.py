"""A model in a form suitable for other programs.

The network used for prediction has its normalisations folded in and calls operators of one library;
exported models are made from the plain network, as described in the paper.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from embedseg_large.embedding import raw_layout
from embedseg_large.errors import UsageError
from embedseg_large.extras import extra
from embedseg_large.files import is_url
from embedseg_large.network.erfnet import BranchedERFNet
from embedseg_large.network.model import Model
from embedseg_large.network.settings import EMBEDSEG, ERFNET, ModelSettings

INPUT = "image"
OUTPUT = "embedding"
PERCENTILES = (1.0, 99.8)
"""Percentiles of the whole image that become 0 and 1. Nothing is clipped."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PortableModel:
    """A model that will be written for other programs."""

    network: BranchedERFNet
    """The network with its weights, on the CPU, for inference: normalised image in, raw channels
    out."""

    settings: ModelSettings
    """Pitch, sizes and the like."""

    card: Mapping[str, Any]
    """The model card."""

    fingerprint: str
    """Hash of weights and settings."""

    @classmethod
    def of(cls, model: Model) -> PortableModel:
        """Take a model apart.

        Raises
        ------
        UsageError
            If its method is not EmbedSeg: other programs could not interpret its outputs.
        """
        if model.settings.method != EMBEDSEG or model.settings.backbone != ERFNET:
            raise UsageError(
                f"the model has the method {model.settings.method} and the "
                f"backbone {model.settings.backbone}; only embedseg with erfnet can be exported"
            )
        with torch.device("meta"):
            network = BranchedERFNet(model.ndim, model.channels)
        network.load_state_dict(model.weights, assign=True)
        return cls(
            network=network.eval(),
            settings=model.settings,
            card=model.card,
            fingerprint=model.fingerprint,
        )

    @property
    def axes(self) -> str:
        """Letters of the spatial axes: ``zyx`` or ``yx``."""
        return "zyx"[-self.settings.ndim :]

    @property
    def channel_names(self) -> list[str]:
        """Names of the raw channels, in their order: ``offset_x`` first."""
        _, order = raw_layout(self.settings.ndim)
        kinds = ("offset", "sigma")
        return [f"{kind}_{self.axes[d]}" for kind in kinds for d in order] + ["seed"]

    def example(self, batch: int = 2) -> torch.Tensor:
        """Return a small input with a different length along each axis."""
        shape = [32 + 8 * d for d in range(self.settings.ndim)]
        numbers = torch.Generator().manual_seed(0)
        return torch.rand((batch, self.settings.channels, *shape), generator=numbers)

    def notes(self) -> dict[str, str]:
        """Return what a program needs to obtain instances from the channels, as names and texts.

        Values that are not plain text are JSON.
        """
        normalisation = {"percentiles": PERCENTILES, "of": "the whole image", "clipped": False}
        return {
            "axes": f"{INPUT}: batch, channel, {', '.join(self.axes)}; all but the first two must "
            "be "
            "multiples of 8",
            "output_channels": json.dumps(self.channel_names),
            "normalisation": json.dumps(normalisation),
            "pitch": json.dumps(self.settings.pitch),
            "settings": json.dumps(self.settings.as_dict()),
            "card": json.dumps(dict(self.card)),
            "fingerprint": self.fingerprint,
        }


def need(packages: Sequence[str], purpose: str) -> None:
    """Import packages of an extra.

    Raises
    ------
    UsageError
        If one is not installed; the message has the command that installs it.
    """
    for name in packages:
        with extra("export", purpose):
            import_module(name)


def check_target(path: Path, overwrite: bool) -> None:
    """Refuse a file that cannot be written, before any work.

    Raises
    ------
    UsageError
        If it exists and must not be replaced, is a folder or a URL, or its folder does not exist.
    """
    if is_url(path):
        raise UsageError(f"{path}: models are written to a local disk only, not to a URL")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file in it")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}; create it first")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists; choose another name, or --overwrite (overwrite=True)")
