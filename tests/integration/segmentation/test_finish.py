"""The pyramid that FINISH makes of what tiles say is the pyramid of the labels it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import embedseg_large as es
from embedseg_large.geometry import Box
from embedseg_large.testing.oracle import OracleNetwork
from embedseg_large.testing.synthetic import synthetic_embryo


def level_of(path: str, level: int) -> NDArray[Any]:
    volume = es.open_volume(path, level=level, channel=None)
    return volume.read(Box.whole(volume.spatial_shape))


@pytest.mark.parametrize("options", [{}, {"region": ((30, 201), (10, 71), (None, 65))}])
def test_the_coarser_level_shows_every_other_voxel_of_the_finer(
    options: dict[str, Any], tmp_path: Path
) -> None:
    labels = synthetic_embryo((270, 75, 80), diameter=12)
    result = es.segment(
        labels,
        OracleNetwork.of(labels),
        output=tmp_path / "out.zarr",
        intensity_range=(0, 1),
        cluster_tile=(64, 48, 40),
        **options,
    )
    fine, coarse = level_of(result.path, 0), level_of(result.path, 1)
    assert coarse.shape == (135, 38, 40)
    assert coarse.any()
    np.testing.assert_array_equal(coarse, fine[::2, ::2, ::2])
