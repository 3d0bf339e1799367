"""The intensities that a picture or a viewer shows as black and white."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def display_range(voxels: NDArray[Any], percentiles: tuple[float, float]) -> tuple[float, float]:
    """Return the intensities to show as black and white: percentiles of the finite voxels.

    Parameters
    ----------
    voxels
        Numbers of any real type and shape.
    percentiles
        Lower and upper one, 0 to 100.

    Returns
    -------
    The second is larger than the first; 0 and 1 if no voxel is finite as float32.
    """
    with np.errstate(over="ignore"):
        values = voxels.astype(np.float32, copy=False)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(finite, percentiles))
    return low, max(high, low + 1e-6)
