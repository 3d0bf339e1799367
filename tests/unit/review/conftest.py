"""Stores with labels to review."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedseg_large.conversion.plan import write_image
from embedseg_large.labels.target import label_target
from embedseg_large.testing import render, synthetic_embryo
from embedseg_large.volumes.volume import open_volume

WriteLabels = Callable[..., Path]


@pytest.fixture(scope="session")
def cells() -> NDArray[np.uint32]:
    """Touching cells: (24, 40, 44), about thirty."""
    return synthetic_embryo((24, 40, 44), density=0.5, diameter=11, seed=3)


@pytest.fixture
def write_labels(tmp_path: Path) -> WriteLabels:
    """Write labels into a store with their image; give the path of the labels."""

    def write(
        labels: NDArray[Any],
        *,
        axes: str = "zyx",
        version: str = "0.5",
        store: str = "embryo.ome.zarr",
        **provenance: Any,
    ) -> Path:
        place, ndim = tmp_path / store, len(axes.replace("t", ""))
        if not place.exists():
            planes = labels.reshape(-1, *labels.shape[-ndim:])
            image = np.stack([render(plane) for plane in planes]).reshape(labels.shape)
            write_image(place, image, axes, (2.0, 0.5, 0.5)[-ndim:], version)
        target = label_target(open_volume(place), "cells", overwrite=True)
        pending = target.create(labels.dtype)
        times = range(len(labels)) if "t" in axes else [None]
        for t in times:
            for level in range(pending.n_levels):
                for box in pending.regions(level):
                    if level:
                        pending.downsample(level, box, t)
                    else:
                        now = labels if t is None else labels[t]
                        pending.write(0, box, now[box.slices], t)
        pending.publish({"token": "run 1"} | provenance)
        return place / "labels" / "cells"

    return write


@pytest.fixture
def source(write_labels: WriteLabels, cells: NDArray[Any]) -> Path:
    """The labels of `cells`."""
    return write_labels(cells)
