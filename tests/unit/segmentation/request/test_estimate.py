"""A plan takes arithmetic, not loops: its work does not grow with the volume."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedseg_large.segmentation.options import SegmentOptions
from embedseg_large.segmentation.request.estimate import estimate_of
from embedseg_large.segmentation.request.prepare import prepare
from embedseg_large.segmentation.segmenters.tile_segmenter import TileSegmenter
from embedseg_large.storage.arrays import create_array
from embedseg_large.storage.group import ZarrGroup
from embedseg_large.testing.oracle import OracleNetwork


def declared(folder: Path, shape: tuple[int, ...]) -> Path:
    """A store that says how large it is, and holds nothing."""
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    scale = {"type": "scale", "scale": [1.0, 1.0, 1.0]}
    datasets = [{"path": "0", "coordinateTransformations": [scale]}]
    multiscale = {"version": "0.4", "axes": axes, "datasets": datasets}
    ZarrGroup.at(folder).write(2, {"multiscales": [multiscale]})
    create_array(
        folder / "0", shape=shape, chunks=(64, 64, 64), dtype="u2", fill_value=0, zarr_format=2
    )
    return folder


def work(image: Path, segmenter: Any, **options: Any) -> int:
    """Calls of functions that a plan takes."""
    calls = 0

    def count(_: object, event: str, __: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    asked = SegmentOptions.of(options | {"overwrite": True}, "segment")
    sys.setprofile(count)
    try:
        plan = estimate_of(prepare(image, segmenter, "nuclei", asked))
    finally:
        sys.setprofile(None)
    assert plan.cluster_tiles > 0
    return calls


def local(image: Any) -> Any:
    return image


@pytest.mark.parametrize("kind", ["network", "segmenter"])
@pytest.mark.parametrize("along", [0, 1, 2])
@pytest.mark.parametrize("options", [{}, {"intensity_range": (0, 1)}], ids=["measured", "given"])
def test_a_plan_of_an_axis_of_a_quadrillion_takes_no_more_work_than_that_of_a_thousand(
    tmp_path: Path, kind: str, along: int, options: dict[str, Any]
) -> None:
    segmenter: Any = OracleNetwork.of(np.ones((8, 8, 8), np.uint16))
    if kind == "segmenter":
        segmenter = TileSegmenter(local, name="local", halo=(8, 8, 8))
    counts: list[int] = []
    for length in (1000, 1000, 10**15):  # the first fills caches
        shape = tuple(length if axis == along else 64 for axis in range(3))
        image = declared(tmp_path / f"{len(counts)}.zarr", shape)
        counts.append(work(image, segmenter, **options))
    assert counts[2] < 1.5 * counts[1]
