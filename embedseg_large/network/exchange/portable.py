"""A model in the form that other programs can be given.

The network that predictions are made with has its normalisations folded in and calls operators of
one library; what leaves this package is made from the plain network, as the paper draws it.
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
from embedseg_large.network.erfnet import BranchedERFNet
from embedseg_large.network.model import Model
from embedseg_large.network.settings import ModelSettings

INPUT = "image"
OUTPUT = "embedding"
PERCENTILES = (1.0, 99.8)
"""Of the whole image: what becomes 0 and 1. Nothing is clipped."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PortableModel:
    """A model that is about to be written for other programs."""

    network: BranchedERFNet
    """With its weights, on the CPU, for inference: normalised image in, raw channels out."""

    settings: ModelSettings
    """Pitch, sizes and the like."""

    card: Mapping[str, Any]
    """For people."""

    fingerprint: str
    """Of weights and settings."""

    @classmethod
    def of(cls, model: Model) -> PortableModel:
        """Take a model apart."""
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
        """Return a small input, of another length along each axis."""
        shape = [32 + 8 * d for d in range(self.settings.ndim)]
        numbers = torch.Generator().manual_seed(0)
        return torch.rand((batch, self.settings.channels, *shape), generator=numbers)

    def notes(self) -> dict[str, str]:
        """Return what a program needs to make instances of the channels, as names and texts.

        Everything that is not a plain text is JSON.
        """
        normalisation = {"percentiles": PERCENTILES, "of": "the whole image", "clipped": False}
        return {
            "axes": f"{INPUT}: batch, channel, {', '.join(self.axes)}; all but the first two are "
            "multiples of 8",
            "output_channels": json.dumps(self.channel_names),
            "normalisation": json.dumps(normalisation),
            "pitch": json.dumps(self.settings.pitch),
            "settings": json.dumps(self.settings.as_dict()),
            "card": json.dumps(dict(self.card)),
            "fingerprint": self.fingerprint,
        }


def need(packages: Sequence[str], purpose: str) -> None:
    """Import packages that are an extra.

    Raises
    ------
    UsageError
        One is not installed; the message has the command that installs it.
    """
    for name in packages:
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            raise UsageError(
                f'{purpose} needs {error.name}; pip install "embedseg-large[export]"'
            ) from None


def check_target(path: Path, overwrite: bool) -> None:
    """Refuse a file that could not be written, before the work.

    Raises
    ------
    UsageError
        It exists and is not to be replaced, is a folder, or there is no folder for it.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file in it")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}; make it first")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists; choose another name, or --overwrite (overwrite=True)")
