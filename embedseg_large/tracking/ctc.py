"""Tracks as files of the Cell Tracking Challenge: a table of tracks, and a TIFF per timepoint.

::

    FOLDER/res_track.txt     one line per track: number, first and last timepoint, parent or 0
           mask000.tif ...   labels of each timepoint; a voxel is the number of its track
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.exporting.label_tiff import dtype_for, strip_rows, strips
from embedseg_large.files import make_folders
from embedseg_large.storage.disk import check_writable, output_errors, refuse_url, whole_file
from embedseg_large.tracking.lineage import Lineage, rows_of
from embedseg_large.volumes.volume import Volume

_TABLE = "res_track.txt"
_MASK = re.compile(r"mask\d{3,}\.tif")
_BIG = 1 << 31  # bytes from which a file is a BigTIFF


def check_ctc(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that is not writable, or already has such files.

    Raises
    ------
    UsageError
        If it is a URL or a file, or has tracks that may not be overwritten.
    OutputError
        If it is not writable.
    """
    refuse_url(folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: this is a file; choose a folder for the tracks with --ctc")
    if _files(folder) and not overwrite:
        raise UsageError(
            f"{folder} has files of the Cell Tracking Challenge; choose another folder, or replace "
            "them with --overwrite"
        )
    check_writable(folder)


def write_ctc(
    folder: Path,
    labels: Volume,
    time: NDArray[np.int64],
    label: NDArray[np.uint64],
    lineage: Lineage,
) -> None:
    """Write the files; masks in bounded memory, a few planes, or rows of a large plane, at a time.

    Parameters
    ----------
    folder
        Created if it does not exist; older files of this kind in it are replaced or removed.
    labels
        All timepoints, without a channel axis.
    time, label
        Timepoint and label of each instance, ascending.
    lineage
        The tracks, without gaps.

    Raises
    ------
    OutputError
        If a file cannot be written.
    UsageError
        If there are more tracks than fit 32 bits.
    """
    dtype = dtype_for(lineage.n_tracks, labels.name)
    digits = max(3, len(str(labels.n_timepoints - 1)))
    with output_errors(folder):
        make_folders(folder)
        (folder / _TABLE).unlink(missing_ok=True)
    written = set()
    for t in range(labels.n_timepoints):
        now = slice(*np.searchsorted(time, (t, t + 1)))
        renumber = _renumbered(label[now], lineage.track[now].astype(dtype))
        file = folder / f"mask{t:0{digits}}.tif"
        _write_mask(file, labels, t, renumber, dtype)
        written.add(file)
    with output_errors(folder):
        for file in set(_masks(folder)) - written:
            file.unlink()
    with whole_file(folder / _TABLE) as begun:  # last: it marks the masks as complete
        np.savetxt(begun, rows_of(time, lineage), fmt="%d")


def _files(folder: Path) -> list[Path]:
    return [*_masks(folder), *folder.glob(_TABLE)]


def _masks(folder: Path) -> list[Path]:
    """The masks of all timepoints; files of similar names are somebody's own."""
    return [file for file in folder.glob("mask*.tif") if _MASK.fullmatch(file.name)]


def _renumbered(
    label: NDArray[np.uint64], track: NDArray[Any]
) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return what replaces the labels of a timepoint with the numbers of their tracks."""
    numbers = np.concatenate([np.zeros(1, track.dtype), track])

    def renumber(labels: NDArray[Any]) -> NDArray[Any]:
        at = np.searchsorted(label, labels.astype(np.uint64))
        known = label[np.minimum(at, len(label) - 1)] == labels if len(label) else False
        return numbers[np.where(known, at + 1, 0)]

    return renumber


def _write_mask(
    file: Path,
    labels: Volume,
    timepoint: int,
    renumber: Callable[[NDArray[Any]], NDArray[Any]],
    dtype: np.dtype[Any],
) -> None:
    import tifffile

    shape, rows = labels.spatial_shape, strip_rows(labels, dtype)
    big = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize > _BIG
    with whole_file(file) as begun, tifffile.TiffWriter(begun, bigtiff=big) as tiff:
        tiff.write(
            strips(labels, timepoint if "t" in labels.axes else None, rows, renumber),
            shape=shape,
            dtype=dtype,
            photometric="minisblack",
            compression="zlib",
            rowsperstrip=rows,
        )
