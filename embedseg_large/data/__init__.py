"""A small embryo that comes with the package: a mouse blastocyst with its nuclei labelled by hand.

Source and licence are in NOTICE, its making in scripts/make_demo_volume.py.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from embedseg_large.conversion.plan import new_store, write_image
from embedseg_large.labels.target import label_target
from embedseg_large.volumes.volume import open_volume

_SOURCE = "painted by hand; IDR idr0062, image 6001240, Blin et al. 2019, CC BY 4.0"

VOXEL_SIZE = (1.000405, 0.720796, 0.720796)
"""Of the demo volume: micrometres along z, y, x."""


@dataclass(frozen=True, slots=True, eq=False)
class Demo:
    """The demo volume."""

    image: NDArray[np.uint16]
    """(118, 137, 135) z, y, x: DAPI."""
    truth: NDArray[np.uint8]
    """The same shape: 61 nuclei, ids 1..61, 0 for background. Generous at the borders."""
    voxel_size: tuple[float, float, float]
    """Micrometres along z, y, x."""


@dataclass(frozen=True, slots=True)
class DemoStore:
    """Where the demo volume was written to."""

    image: Path
    """The OME-Zarr image."""
    truth: Path
    """Its labels."""


def load_demo() -> Demo:
    """Read the demo volume."""
    return Demo(_read("blastocyst.ome.tif"), _read("blastocyst_truth.ome.tif"), VOXEL_SIZE)


def copy_demo(out: str | os.PathLike[str], *, overwrite: bool = False) -> DemoStore:
    """Write the demo volume as an OME-Zarr 0.5 image with its truth as ``labels/truth``.

    Parameters
    ----------
    out
        Folder to create, such as ``blastocyst.ome.zarr``.
    overwrite
        Whether an image that is there may be replaced, with all of its labels.

    Raises
    ------
    UsageError
        If `out` exists and is not to be replaced.
    OutputError
        If it cannot be written.
    """
    with new_store(out, overwrite=overwrite, also=("labels",)) as store:
        _write(store, load_demo())
    return DemoStore(Path(out), Path(out, "labels", "truth"))


def _write(store: Path, demo: Demo) -> None:
    """Write the image and its truth into a folder that does not exist."""
    write_image(store, demo.image, axes="zyx", voxel_size=demo.voxel_size, channel_names=["DAPI"])
    pending = label_target(open_volume(store), "truth").create(np.uint32)
    for level in range(pending.n_levels):
        for box in pending.regions(level):
            if level == 0:
                pending.write(level, box, demo.truth[box.slices])
            else:
                pending.downsample(level, box)
    pending.publish({"source": _SOURCE})


def _read(name: str) -> NDArray[Any]:
    with as_file(files(__name__) / name) as path:
        array: NDArray[Any] = tifffile.imread(path)
    return array
