"""Values of options: what is of another type is one line, and numbers of numpy are numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedseg_large as es
from embedseg_large.errors import UsageError
from embedseg_large.segmentation.options import SegmentOptions


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"halo": 16}, "halo is 16; pass several values or None"),
        ({"tile": "64,64,64"}, "tile is '64,64,64'; pass several values or None"),
        ({"intensity_range": 5}, "intensity_range is 5; pass several values or None"),
        ({"voxel_size": 1.0}, "voxel_size is 1.0; pass several values or None"),
        ({"foreground": None}, "foreground is None; pass a number"),
        ({"level": "1"}, "level is '1'; pass a whole number or None"),
        ({"level": 1.5}, "level is 1.5; pass a whole number or None"),
        ({"output": 3}, "output is 3; pass a text or a path or None"),
    ],
)
def test_a_value_of_another_type_is_one_line_before_any_work(
    given: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError) as error:
        es.segment("nowhere.ome.zarr", **given)
    assert str(error.value) == said


def test_paths_and_values_of_numpy_are_taken() -> None:
    given = {
        "halo": np.array([8, 8, 8]),
        "level": np.int64(1),
        "timepoint": np.uint8(2),
        "foreground": np.float32(0.5),
        "seed": 1,
        "output": Path("a"),
        "region": [slice(3), None],
    }
    assert SegmentOptions.of(given, "segment").level == 1


@pytest.mark.parametrize("channel", [1, np.int64(1), [1], np.array([1])])
def test_channels_to_measure_may_be_any_whole_numbers(channel: Any) -> None:
    image = np.stack([np.zeros((8, 8), np.uint8), np.full((8, 8), 5, np.uint8)])
    asked = {"image": image, "image_axes": "cyx", "channel": channel}
    assert es.measure(np.ones((8, 8), np.uint8), **asked)["intensity_mean_1"].tolist() == [5]


@pytest.mark.parametrize("timepoint", [1, np.int64(1), [1], (np.int32(1),), np.array([1])])
def test_a_timepoint_may_be_any_whole_number(timepoint: Any, tmp_path: Path) -> None:
    labels = np.zeros((2, 8, 8), np.uint16)
    labels[1, 2:5, 2:5] = 3
    series = {"axes": "tyx", "timepoint": timepoint}
    assert es.measure(labels, **series)["label"].tolist() == [3]
    out = es.export_labels(labels, tmp_path / "a.tif", **series).files[0]
    assert es.open_volume(out, channel=None).data.max().compute() == 3
