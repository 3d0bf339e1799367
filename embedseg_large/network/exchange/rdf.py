"""The description of a bioimage.io package: ``rdf.yaml``, as its specification requires."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from embedseg_large.network.exchange.modelpage import CITATION, DOI
from embedseg_large.network.exchange.onnx import OPSET
from embedseg_large.network.exchange.portable import INPUT, OUTPUT, PERCENTILES, PortableModel
from embedseg_large.network.modelfile import SUFFIX
from embedseg_large.network.settings import STRIDE

TORCHSCRIPT, ONNX = "weights.torchscript.pt", "weights.onnx"
PAGE, COVER = "README.md", "cover.png"
OWN = f"model{SUFFIX}"
EPS = 1e-6
"""Added to the difference of the percentiles by the specification."""

_UNSTATED = "not stated"  # the specification requires a name


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Statements of the package in addition to the model's card."""

    name: str
    """Name of the model."""

    authors: Sequence[str]
    """Names of the authors of the model."""

    licence: str | None = None
    """SPDX identifier, such as CC-BY-4.0."""


def smallest(context: int) -> int:
    """Return the minimum length of an axis: one cell of the network between two halos."""
    return 2 * context + STRIDE


def description_of(model: PortableModel, about: About, folder: Path) -> dict[str, Any]:
    """Return the content of ``rdf.yaml`` for the files in a folder."""
    described: dict[str, Any] = {
        "type": "model",
        "format_version": "0.5.3",  # has everything needed, and older programs support it
        "name": _name(about.name),
        "description": str(model.card.get("summary", "Instance segmentation by embeddings."))[:512],
        "documentation": PAGE,
        "covers": [COVER],
        "authors": [{"name": name} for name in about.authors or [_UNSTATED]],
        "cite": [{"text": CITATION, "doi": DOI}],
        "tags": ["embedseg", "instance-segmentation", "pytorch", f"{model.settings.ndim}d"],
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        "attachments": [_file(folder / OWN)],
        "inputs": [_input(model) | {"test_tensor": _file(folder / f"{INPUT}.npy")}],
        "outputs": [_output(model) | {"test_tensor": _file(folder / f"{OUTPUT}.npy")}],
        "weights": _weights(folder),
        "config": {"embedseg_large": {**model.settings.as_dict(), "model": model.fingerprint}},
    }
    return described if about.licence is None else described | {"license": about.licence}


def _name(name: str) -> str:
    """Return a title with the characters and the length that the specification allows."""
    allowed = "".join(c if (c.isascii() and c.isalnum()) or c in "_+- ()" else "-" for c in name)
    return f"EmbedSeg {allowed}"[:64]


def _space(model: PortableModel, number: int) -> dict[str, Any]:
    """Return the description of a spatial axis, which both tensors share."""
    axis: dict[str, Any] = {"type": "space", "id": model.axes[number]}
    if model.settings.voxel_size is not None:
        axis |= {"unit": "micrometer", "scale": model.settings.voxel_size[number]}
    return axis


def _input(model: PortableModel) -> dict[str, Any]:
    spaces = []
    for number, context in enumerate(model.settings.context):
        size = {"min": smallest(context), "step": STRIDE}
        spaces.append({**_space(model, number), "size": size, "concatenable": True})
    names = [f"channel_{c}" for c in range(model.settings.channels)]
    low, high = PERCENTILES
    scaled = {"axes": list(model.axes), "min_percentile": low, "max_percentile": high, "eps": EPS}
    return {
        "id": INPUT,
        "description": "intensities, as they are",
        "axes": [{"type": "batch"}, {"type": "channel", "channel_names": names}, *spaces],
        "data": {"type": "float32"},
        "preprocessing": [
            {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
            {"id": "scale_range", "kwargs": scaled},  # not batch: each image by itself
        ],
    }


def _output(model: PortableModel) -> dict[str, Any]:
    spaces = []
    for number, context in enumerate(model.settings.context):
        halo = {"halo": context} if context else {}
        size = {"tensor_id": INPUT, "axis_id": model.axes[number]}
        spaces.append({**_space(model, number), "size": size, **halo})
    channel = {"type": "channel", "channel_names": model.channel_names}
    return {
        "id": OUTPUT,
        "description": "raw offsets, bandwidths and seediness; see the documentation",
        "axes": [{"type": "batch"}, channel, *spaces],
        "data": {"type": "float32"},
    }


def _weights(folder: Path) -> dict[str, Any]:
    version = str(torch.__version__).partition("+")[0]
    return {
        "torchscript": {**_file(folder / TORCHSCRIPT), "pytorch_version": version},
        "onnx": {**_file(folder / ONNX), "opset_version": OPSET, "parent": "torchscript"},
    }


def _file(path: Path) -> dict[str, str]:
    """Describe a file of the package, with the checksum of its content."""
    return {"source": path.name, "sha256": sha256(path.read_bytes()).hexdigest()}
