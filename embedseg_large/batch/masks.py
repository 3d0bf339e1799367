"""Conversion of labels to a mask: a TIFF, or an OME-Zarr label volume."""

from __future__ import annotations

import shutil
from pathlib import Path

from embedseg_large.batch.options import MaskFormat
from embedseg_large.exporting.label_tiff import LabelTiff, dtype_for, timepoints_of
from embedseg_large.storage.disk import output_errors, replaced
from embedseg_large.volumes.volume import open_volume

ENDINGS: dict[MaskFormat, str] = {"tiff": ".tif", "ome-zarr": ".ome.zarr"}


def write_tiff_mask(labels: str, mask: Path, largest: int) -> None:
    """Write published labels as a TIFF.

    Parameters
    ----------
    labels
        Path of their group.
    mask
        File to write; an existing one is replaced.
    largest
        The largest label.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    volume = open_volume(labels, channel=None)
    LabelTiff(
        labels=volume,
        timepoints=timepoints_of(volume, None),
        dtype=dtype_for(largest, volume.name),
    ).write(mask)


def move_labels(labels: str, mask: Path) -> None:
    """Move published labels; an existing folder is replaced.

    Raises
    ------
    OutputError
        If they cannot be moved; the older ones then remain.
    """
    aside = mask.with_name(f".{mask.name}.old")
    with output_errors(mask):
        shutil.rmtree(aside, ignore_errors=True)
    with replaced(Path(labels), mask, aside):
        pass
    with output_errors(aside):
        shutil.rmtree(aside, ignore_errors=True)


def set_aside(mask: Path) -> Path:
    """Rename a mask that another program wrote to ``NAME.bak``, or a name with a number.

    Raises
    ------
    OutputError
        If it cannot be renamed.
    """
    backup = next(b for b in _backups(mask) if not b.exists())
    with output_errors(mask):
        mask.rename(backup)
    return backup


def _backups(mask: Path) -> list[Path]:
    names = [f"{mask.name}.bak", *(f"{mask.name}.bak{n}" for n in range(2, 1000))]
    return [mask.with_name(name) for name in names]
