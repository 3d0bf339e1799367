"""Checkpoints of the original EmbedSeg program.

A folder with ``best_iou_model.pth`` or ``checkpoint.pth`` (tensors under ``model_state_dict``) and
``data_properties.json``, the latter extended by ``grid_*`` and ``pixel_*`` of each axis, from which
the pitch follows: the original has these in the configuration of its training. Optional there:
``extent_*`` (largest extent of an object, voxels) and ``voxel_size_*`` (micrometres).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from torch import Tensor

from embedseg_large.documents import parse_json, read_document
from embedseg_large.errors import ModelError, UsageError, foreign
from embedseg_large.network.backbones import original_shapes
from embedseg_large.network.erfnet import MOST_CHANNELS
from embedseg_large.network.modelfile import StoredModel, as_weights, check_shapes
from embedseg_large.network.settings import ModelSettings
from embedseg_large.network.torchfile import read_torch_file

WEIGHT_FILES = ("best_iou_model.pth", "checkpoint.pth")
PROPERTIES_FILE = "data_properties.json"

_FIRST = "encoder.initial_block.conv.weight"


def weights_file(folder: Path) -> Path:
    """Return the file with the weights: the best ones, or otherwise the last ones.

    Raises
    ------
    ModelError
        If there is none.
    """
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise ModelError(f"{folder} has neither {' nor '.join(WEIGHT_FILES)}; it is not a checkpoint")


def read_original_folder(
    folder: Path, given: Mapping[str, Sequence[float]] | None = None
) -> StoredModel:
    """Read a checkpoint of the original program.

    Parameters
    ----------
    folder
        The checkpoint.
    given
        Properties per axis (z, y, x) that are missing in the folder, or wrong: ``grid``,
        ``pixel``, ``extent``, ``voxel_size``.

    Raises
    ------
    ModelError
        If a file is missing, holds anything but tensors, or does not fit the network.
    UsageError
        If a given property does not have one number per axis.
    """
    file = weights_file(folder)
    tensors = _read_tensors(file)
    if _FIRST not in tensors:
        raise ModelError(f"{file}: tensor {_FIRST} is missing; it is not an EmbedSeg checkpoint")
    shape = tensors[_FIRST].shape
    ndim, channels = len(shape) - 2, shape[1] if len(shape) > 1 else 0
    if ndim not in (2, 3):
        raise ModelError(f"{file}: tensor {_FIRST} is {tuple(shape)}; it must have 4 or 5 axes")
    if not 1 <= channels <= MOST_CHANNELS:
        raise ModelError(
            f"{file}: tensor {_FIRST} is {tuple(shape)}; an EmbedSeg network has 1 to "
            f"{MOST_CHANNELS} image channels"
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    what = f"a {ndim}D EmbedSeg network with {channels} image channels"
    check_shapes(shapes, original_shapes(ndim, channels), str(file), what)
    weights = as_weights(tensors, str(file))
    path = folder / PROPERTIES_FILE
    properties = _read_properties(path) | _of_each_axis(given or {}, "zyx"[-ndim:])
    settings = _settings(properties, ndim, channels, path)
    return StoredModel(weights=weights, settings=settings, card={"origin": "EmbedSeg checkpoint"})


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of the network as they are, without executing anything from the file."""
    content = read_torch_file(path)
    weights = content.get("model_state_dict") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(t, Tensor) for t in weights.values()):
        raise ModelError(f"{path} has no tensors under model_state_dict; it is not a checkpoint")
    # the original wraps its network in DataParallel, which adds a prefix
    return {str(name).removeprefix("module."): t for name, t in weights.items()}


def _read_properties(path: Path) -> dict[str, Any]:
    todo = "put the file from the training there"
    with foreign(path, "cannot be read", todo=todo, kind=ModelError):
        try:
            properties = parse_json(read_document(path))
        except FileNotFoundError as error:
            raise ModelError(f"{path} is missing; put it beside the weights") from error
    if not isinstance(properties, dict):
        raise ModelError(f"{path} is not a JSON object; use the file from the training")
    return properties


def _of_each_axis(given: Mapping[str, Sequence[float]], axes: str) -> dict[str, float]:
    """Return the numbers under the original's names: ``grid_z``."""
    for name, values in given.items():
        if len(values) != len(axes):
            raise UsageError(
                f"{name} has {len(values)} numbers; the checkpoint is {len(axes)}D: "
                f"give {len(axes)}, for {', '.join(axes)}"
            )
    return {f"{n}_{a}": v for n, each in given.items() for a, v in zip(axes, each, strict=True)}


def _settings(properties: Mapping[str, Any], ndim: int, channels: int, path: Path) -> ModelSettings:
    """Translate the original's properties."""
    axes = "zyx"[-ndim:]
    _check_complete(properties, axes, path)
    with foreign(path, "a value cannot be used", todo="correct it", kind=ModelError):
        grid, pixel = _each(properties, "grid", axes), _each(properties, "pixel", axes)
        mean = _each(properties, "avg_object_size", axes)
        voxel_size = None
        if f"voxel_size_{axes[0]}" in properties:
            voxel_size = _each(properties, "voxel_size", axes)
        pitch = [p / (g - 1) for p, g in zip(pixel, grid, strict=True)]
        extent = _extent(properties, axes)
        smallest = int(properties["min_object_size"])
        try:
            return ModelSettings.from_objects(
                channels=channels,
                pitch=pitch,
                extent=extent,
                min_object_size=smallest,
                object_diameter=sum(mean[-2:]) / 2,
                object_depth=mean[0] if len(mean) == 3 else None,
                voxel_size=voxel_size,
            )
        except UsageError as error:
            raise ValueError(str(error)) from error  # an error of the file, not of the user


def _check_complete(properties: Mapping[str, Any], axes: str, path: Path) -> None:
    """Raise an error that names all missing properties."""
    kinds = ["grid", "pixel", "avg_object_size"]
    kinds.append("extent" if f"extent_{axes[0]}" in properties else "stdev_object_size")
    if f"voxel_size_{axes[0]}" in properties:
        kinds.append("voxel_size")
    needed = [f"{kind}_{axis}" for kind in kinds for axis in axes] + ["min_object_size"]
    missing = [name for name in needed if name not in properties]
    if not missing:
        return
    them = "it" if len(missing) == 1 else "them"
    options = [f"--{kind}" for kind in kinds[:2] if f"{kind}_{axes[-1]}" in missing]
    hint = f" (embedseg-large import has {' and '.join(options)})" if options else ""
    raise ModelError(f"{path} lacks {', '.join(missing)}; add {them}, as used in training{hint}")


def _extent(properties: Mapping[str, Any], axes: str) -> list[int]:
    """Return the largest extent of an object, or an estimate from what the original records.

    It records mean and standard deviation. Three deviations above the mean hold 9 of 10 objects
    whatever their distribution (Cantelli) and nearly all of a bell-shaped one. Half a training crop
    would be less informative, because crops are chosen for memory. Too small an estimate costs
    time, not labels: an insufficient halo is doubled where neighbouring tiles disagree.
    """
    if f"extent_{axes[0]}" in properties:
        return [ceil(e) for e in _each(properties, "extent", axes)]
    mean = _each(properties, "avg_object_size", axes)
    deviation = _each(properties, "stdev_object_size", axes)
    return [ceil(m + 3 * s) for m, s in zip(mean, deviation, strict=True)]


def _each(properties: Mapping[str, Any], name: str, axes: str) -> list[float]:
    """Return the values of a property along all axes."""
    return [float(properties[f"{name}_{axis}"]) for axis in axes]
