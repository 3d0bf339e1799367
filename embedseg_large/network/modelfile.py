"""A model as one safetensors file: tensors, and everything else as JSON in the header.

::

    metadata["embedseg_large"] = {"version": 1, "settings": {...}, "card": {...}}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from embedseg_large.documents import parse_json
from embedseg_large.errors import ModelError, OutputError, UsageError, foreign
from embedseg_large.files import whole
from embedseg_large.network.backbones import shapes_of
from embedseg_large.network.settings import EMBEDSEG, ModelSettings

SUFFIX = ".safetensors"
KEY = "embedseg_large"
VERSION = 1
INTEGERS = ("num_batches_tracked", "classes")
"""Ends of the names of tensors that hold integers: of batch normalisation, and of a forest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """The content of a model file, checked for consistency."""

    weights: Mapping[str, Tensor]
    """Tensors of the network, float32, by name."""

    settings: ModelSettings
    """Everything the model knows apart from its weights."""

    card: Mapping[str, Any] = field(default_factory=dict)
    """Model card: training data, scores, limits, licence."""


def write_model_file(stored: StoredModel, path: Path, dtype: str = "float32") -> None:
    """Write a model; the file appears complete or not at all.

    Parameters
    ----------
    stored
        The model.
    path
        The file; an existing one is replaced.
    dtype
        float32, or float16 for half the size: only convolution kernels are rounded, because biases
        and the statistics of batch normalisation are small and some would vanish.

    Raises
    ------
    UsageError
        If it is another dtype.
    OutputError
        If the file cannot be written.
    """
    if dtype not in {"float32", "float16"}:
        raise UsageError(f"weights cannot be stored as {dtype}; use float32 or float16")
    tensors = {k: t.detach().cpu().contiguous() for k, t in stored.weights.items()}
    if dtype == "float16":
        tensors = {k: _narrow(t) for k, t in tensors.items()}
    header = {
        "version": VERSION,
        "settings": stored.settings.as_dict(),
        "card": dict(stored.card),
    }
    _replace(path, safetensors.torch.save(tensors, {KEY: json.dumps(header)}))


def read_model_file(path: Path, where: str | None = None) -> StoredModel:
    """Read what `write_model_file` wrote; weights come as float32.

    Parameters
    ----------
    path
        The file.
    where
        Its name in messages; default: the path.

    Raises
    ------
    ModelError
        If the file is not a safetensors file, is of another kind or version, or is inconsistent.
    """
    where = where or str(path)
    what = "no model file that this program saved"
    todo = "of an exported model (.onnx, .pt, .zip) give the file it was made from"
    with (
        foreign(where, what, todo=todo, kind=ModelError),
        safetensors.safe_open(path, framework="pt") as file,
    ):
        header = (file.metadata() or {}).get(KEY)
        if header is None:
            raise ModelError(
                f"{where} holds tensors, but was not saved by embedseg_large; pass a model file"
            )
        settings, card = _parse(header, where)
        names = list(file.keys())
        kind = "EmbedSeg" if settings.method == EMBEDSEG else settings.backbone
        what = f"a {settings.ndim}D {kind} network with {settings.channels} image channels"
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        with _of_file(where):
            wanted = shapes_of(settings)
        check_shapes(shapes, wanted, where, what)  # before the tensors take memory
        weights = as_weights({name: file.get_tensor(name) for name in names}, where)
    return StoredModel(weights=weights, settings=settings, card=card)


def as_weights(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return the tensors of a file as float32; those that count or name something stay integers.

    Their shapes must have been checked: a tensor of a file may repeat one number 10^12 times.

    Raises
    ------
    ModelError
        If a tensor is sparse, or holds something else than numbers a network computes with.
    """
    for name, tensor in tensors.items():
        is_number = tensor.is_floating_point() or name.endswith(INTEGERS)
        if tensor.layout is not torch.strided or not is_number:
            raise ModelError(
                f"{where}: tensor {name} holds {tensor.dtype}, {tensor.layout}; "
                "weights are plain floating-point numbers: save it again"
            )
    return {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}


def check_shapes(
    shapes: Mapping[str, tuple[int, ...]],
    wanted: Mapping[str, tuple[int, ...]],
    where: str,
    what: str,
) -> None:
    """Raise a ModelError unless the tensors are those of the network, by name and shape."""
    for name in [*wanted, *shapes]:
        if name not in shapes:
            problem = "is missing"
        elif name not in wanted:
            problem = "is not part of the network"
        elif shapes[name] != wanted[name]:
            problem = f"is {shapes[name]} instead of {wanted[name]}"
        else:
            continue
        raise ModelError(f"{where}: tensor {name} {problem}; it is not {what}")


def _parse(header: str, where: str) -> tuple[ModelSettings, dict[str, Any]]:
    """Return the settings and the card from the JSON header."""
    with foreign(where, "its header cannot be used", todo="save it again", kind=ModelError):
        values = parse_json(header)
        if values["version"] != VERSION:
            raise ModelError(
                f"{where} has version {values['version']} of the model format, this release reads "
                f"version {VERSION}; use the release that wrote it, or a newer one"
            )
        return _settings_of(values["settings"], where), dict(values["card"])


def _settings_of(values: Any, where: str) -> ModelSettings:
    """Read the settings of a file; an invalid value is reported as an error of the file."""
    with _of_file(where):
        return ModelSettings.from_dict(values)


@contextmanager
def _of_file(where: str) -> Iterator[None]:
    """Report an invalid value as an error of the file that holds it."""
    try:
        yield
    except UsageError as error:
        raise ModelError(f"{where}: {error}") from error


def _narrow(tensor: Tensor) -> Tensor:
    """Round a convolution kernel to float16; keep other tensors, and those that would overflow."""
    if tensor.ndim < 2 or not torch.isfinite(tensor.half()).all():
        return tensor
    return tensor.half()


def _replace(path: Path, data: bytes) -> None:
    """Write a file atomically and durably."""
    try:
        with whole(path, durable=True) as begun:
            begun.write_bytes(data)
    except OSError as error:
        raise OutputError(f"the model cannot be written to {path}: {error.strerror}") from error
