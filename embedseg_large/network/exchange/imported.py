"""Models from other programs, as model files of ours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import BadZipFile, ZipFile

from embedseg_large.errors import ModelError, foreign
from embedseg_large.network.exchange.portable import check_target
from embedseg_large.network.exchange.rdf import OWN
from embedseg_large.network.modelfile import StoredModel, read_model_file, write_model_file
from embedseg_large.network.original import read_original_folder, weights_file

UNKNOWN_LICENCE = "unknown; ask the author before you publish or sell anything made with it"

MOST_UNPACKED = 20
"""Most bytes from one byte of a package. Weights give little more than one; a file of zeros, of
which a small package can fill a disk, a thousand."""


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
    """Write a model from another program as one file, for `load_model`.

    Parameters
    ----------
    source
        Folder of a checkpoint of the original EmbedSeg, or a bioimage.io package written by
        `export_model`.
    out
        File to write, ``.safetensors``.
    grid, pixel
        For a checkpoint whose ``data_properties.json`` lacks them: ``grid_*`` and ``pixel_*`` of
        the training configuration, in the order z, y, x.
    voxel_size
        For a checkpoint: voxel size of the training images, in µm along z, y, x.
    licence
        Licence of the weights. Default: unknown, as the card then states.
    overwrite
        Whether an existing file may be replaced.

    Returns
    -------
    What was written.

    Raises
    ------
    ModelError
        If there is no model, or parts of it are missing; the message names all of them.
    UsageError
        If the file exists, or an argument does not suit the checkpoint.
    OutputError
        If the file cannot be written.
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
        raise ModelError(f"{folder}: no such folder; pass the folder of an EmbedSeg checkpoint")
    card = dict(stored.card) if folder.is_file() else _card(folder, path)
    if licence is not None:
        card["licence"] = licence
    stored = StoredModel(weights=stored.weights, settings=stored.settings, card=card)
    write_model_file(stored, path)
    return stored


def _from_package(path: Path) -> StoredModel:
    """Read our own model file in a package."""
    where = f"{OWN} in {path}"
    todo = "download the package again, or ask its author"
    with (
        foreign(where, "cannot be unpacked", todo=todo, kind=ModelError),
        TemporaryDirectory() as folder,
    ):
        return read_model_file(_unpacked(path, Path(folder)), where)


def _unpacked(path: Path, folder: Path) -> Path:
    """Unpack our own model file, unless it would be far larger than weights can be packed."""
    try:
        with ZipFile(path) as archive:
            member = archive.getinfo(OWN)
    except (BadZipFile, KeyError) as error:
        raise ModelError(
            f"{path} is neither the folder of an EmbedSeg checkpoint nor a package that "
            "embedseg-large exported"
        ) from error
    if member.file_size > MOST_UNPACKED * member.compress_size:
        raise ValueError(f"{member.compress_size} bytes would become {member.file_size}")
    with ZipFile(path) as archive:
        return Path(archive.extract(member, folder))


def _card(folder: Path, out: Path) -> dict[str, Any]:
    """Describe where a checkpoint is from, and what is unknown about it."""
    file = weights_file(folder)
    return {
        "name": out.stem,
        "summary": "A model trained with the original EmbedSeg.",
        "origin": "EmbedSeg checkpoint",
        "source": {
            "folder": folder.absolute().name,
            "file": file.name,
            "sha256": sha256(file.read_bytes()).hexdigest(),
        },
        "normalisation": "Percentiles 1 and 99.8 of the whole image.",
        "licence": UNKNOWN_LICENCE,
    }
