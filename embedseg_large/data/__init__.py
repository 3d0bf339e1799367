"""A small embryo that comes with the package: a mouse blastocyst with its nuclei labelled by hand.

Source and licence are in NOTICE, its making in scripts/make_demo_volume.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

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


def load_demo() -> Demo:
    """Read the demo volume."""
    return Demo(_read("blastocyst.ome.tif"), _read("blastocyst_truth.ome.tif"), VOXEL_SIZE)


def _read(name: str) -> NDArray[Any]:
    with as_file(files(__name__) / name) as path:
        array: NDArray[Any] = tifffile.imread(path)
    return array
