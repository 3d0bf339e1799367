"""Synthetic volumes as files, for viewing or for training with any program."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count as numbers_from
from itertools import takewhile
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from embedseg_large.errors import OutputError, PlaceError, UsageError
from embedseg_large.files import is_url, whole
from embedseg_large.synthesis.reading import Stated, read_settings
from embedseg_large.synthesis.volume import draw_volume

SETTINGS = "settings.yaml"
"""File of all settings, which ``--settings`` and ``--synthetic-settings`` read."""

_KINDS = ("images", "masks")
"""Folders of the volumes."""

Tell = Callable[[int, int], None]
"""Called after each volume with the number written and the total."""


def synthesise(
    out: str | os.PathLike[str],
    count: int = 24,
    *,
    settings: Stated = None,
    ndim: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    tell: Tell | None = None,
) -> list[Path]:
    """Write synthetic images and their masks as TIFFs.

    ``OUT/images/0000.tif`` and ``OUT/masks/0000.tif`` are volume 0, as training with this seed
    would generate it; ``OUT/settings.yaml`` holds the settings.

    Parameters
    ----------
    out
        Folder to write to; its parent exists.
    count
        Number of volumes.
    settings
        Their properties; see `embedseg_large.synthesis.read_settings`.
    ndim
        2 or 3; None: what the settings state, or 3.
    seed
        Seed of all random numbers.
    overwrite
        Whether to replace existing volumes and settings. Other files in the folders remain.
    tell
        Called with the progress.

    Returns
    -------
    The paths of the images.

    Raises
    ------
    UsageError
        If a setting is wrong, or volumes or settings already exist.
    OutputError
        If the files cannot be written.
    """
    if count < 1:
        raise UsageError(f"count is {count}; write at least 1 volume")
    if seed < 0:
        raise UsageError(f"seed is {seed}; pass a number from 0 on")
    chosen = read_settings(settings, ndim=ndim)
    folder = _folder(Path(out), overwrite)
    try:
        for kind in _KINDS:
            (folder / kind).mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(chosen.as_dict(), sort_keys=False, default_flow_style=None)
        with whole(folder / SETTINGS) as begun:
            begun.write_text(text)
        for number in range(count):
            drawn = draw_volume(chosen, seed, number)
            _write(folder / "images" / _name(number), drawn.image)
            _write(folder / "masks" / _name(number), _narrow(drawn.labels))
            if tell is not None:
                tell(number + 1, count)
        for kind in _KINDS:
            _remove_older(folder / kind, count)
    except OSError as error:
        raise OutputError(f"{folder}: {error.strerror or error}") from error
    return [folder / "images" / _name(number) for number in range(count)]


def _folder(out: Path, overwrite: bool) -> Path:
    """Refuse a place that is no local folder, or is not empty."""
    if is_url(out):
        raise PlaceError(f"{out}: volumes are written to a local folder only, not to a URL")
    if not out.absolute().parent.is_dir():
        raise PlaceError(f"{out}: there is no folder {out.absolute().parent}; create it first")
    if out.exists() and not out.is_dir():
        raise PlaceError(f"{out} is a file; name a folder")
    kinds = [out / kind for kind in _KINDS]
    taken = [f"{kind} is not empty" for kind in kinds if kind.exists() and any(kind.iterdir())]
    if os.path.lexists(out / SETTINGS):
        taken.append(f"{out / SETTINGS} exists")
    if taken and not overwrite:
        raise UsageError(f"{taken[0]}; choose another folder, or pass --overwrite")
    return out


def _name(number: int) -> str:
    return f"{number:04d}.tif"


def _remove_older(folder: Path, count: int) -> None:
    """Remove the volumes that an earlier, longer series has beyond the new ones.

    They continue the numbers without a gap; any other file, such as ``20240512.tif``, is somebody's
    own. The last one is removed first, so that a kill in between leaves no gap.
    """
    files = (folder / _name(number) for number in numbers_from(count))
    for file in reversed(list(takewhile(Path.is_file, files))):
        file.unlink()


def _narrow(labels: NDArray[np.int32]) -> NDArray[np.unsignedinteger]:
    return labels.astype(np.uint16 if labels.max(initial=0) < 2**16 else np.uint32)


def _write(path: Path, array: NDArray[np.generic]) -> None:
    """Write a TIFF, which appears complete or not at all."""
    import tifffile

    axes = "ZYX"[-array.ndim :]
    with whole(path) as begun:
        tifffile.imwrite(begun, array, metadata={"axes": axes}, compression="zlib")
