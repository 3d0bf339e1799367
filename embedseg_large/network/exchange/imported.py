"""Models from elsewhere, as files of ours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import BadZipFile, ZipFile

from embedseg_large.errors import ModelError
from embedseg_large.network.exchange.portable import check_target
from embedseg_large.network.exchange.rdf import OWN
from embedseg_large.network.modelfile import StoredModel, read_model_file, write_model_file
from embedseg_large.network.original import read_original_folder, weights_file

UNKNOWN_LICENCE = "unknown; ask whoever trained it before you publish or sell anything made with it"


def import_model(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    grid: Sequence[float] | None = None,
    pixel: Sequence[float] | None = None,
    voxel_size: Sequence[float] | None = None,
    licence: str | None = None,
    overwrite: bool = False,
) -> StoredModel:
    """Write a model from elsewhere as one file, for `load_model`.

    Parameters
    ----------
    source
        Folder of a checkpoint of the original EmbedSeg, or a package of bioimage.io that
        `export_model` wrote.
    out
        File to write, ``.safetensors``.
    grid, pixel
        Of a checkpoint, where its ``data_properties.json`` lacks them: ``grid_*`` and ``pixel_*``
        of the training's configuration, in the order z, y, x.
    voxel_size
        Of a checkpoint: of its training images, in µm along z, y, x.
    licence
        Of the weights. Default: unknown, and the card says so.
    overwrite
        Whether a file that is there may be replaced.

    Returns
    -------
    What was written.

    Raises
    ------
    ModelError
        There is no model, or something of it is missing; names all of it.
    UsageError
        The file exists, or an argument does not fit the checkpoint.
    OutputError
        The file cannot be written.
    """
    folder, path = Path(source), Path(out)
    check_target(path, overwrite)
    given = {"grid": grid, "pixel": pixel, "voxel_size": voxel_size}
    known = {name: values for name, values in given.items() if values is not None}
    if folder.is_file():
        stored = _from_package(folder)
    elif folder.is_dir():
        stored = read_original_folder(folder, known)
    else:
        raise ModelError(f"{folder}: there is no such folder; name that of an EmbedSeg checkpoint")
    card = dict(stored.card) if folder.is_file() else _card(folder, path)
    if licence is not None:
        card["licence"] = licence
    stored = StoredModel(weights=stored.weights, settings=stored.settings, card=card)
    write_model_file(stored, path)
    return stored


def _from_package(path: Path) -> StoredModel:
    """Read our own model file in a package."""
    try:
        with ZipFile(path) as archive, TemporaryDirectory() as folder:
            return read_model_file(Path(archive.extract(OWN, folder)))
    except (BadZipFile, KeyError) as error:
        raise ModelError(
            f"{path} is neither the folder of an EmbedSeg checkpoint nor a package that "
            "embedseg-large exported"
        ) from error


def _card(folder: Path, out: Path) -> dict[str, Any]:
    """Say where a checkpoint is from, and what is not known about it."""
    file = weights_file(folder)
    return {
        "name": out.stem,
        "summary": "A model that was trained with the original EmbedSeg.",
        "origin": "EmbedSeg checkpoint",
        "source": {
            "folder": folder.absolute().name,
            "file": file.name,
            "sha256": sha256(file.read_bytes()).hexdigest(),
        },
        "normalisation": "Percentiles 1 and 99.8 of the whole image.",
        "licence": UNKNOWN_LICENCE,
    }
