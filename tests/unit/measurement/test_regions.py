"""What is measured of instances: exact, whatever the boxes, and what scikit-image says."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import pi
from operator import add
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from embedseg_large.errors import VolumeError
from embedseg_large.geometry import Box
from embedseg_large.measurement.directions import CLASSES, pairs_of_cell, worth_of_crossings
from embedseg_large.measurement.regions import Regions, cells_of
from embedseg_large.measurement.shapes import Columns, columns_of
from embedseg_large.testing.strategies import cuts, embryos, shapes
from embedseg_large.testing.synthetic import synthetic_embryo

Labels = NDArray[Any]

skimage: Any = pytest.importorskip("skimage.measure")


def part(labels: Labels, core: Box, images: Sequence[NDArray[Any]] = ()) -> Regions:
    """What one box tells of a volume."""
    padded = np.pad(labels, 1)
    seen = padded[cells_of(core).shift((1,) * core.ndim).slices]
    return Regions.of(seen, core, [image[core.slices] for image in images])


def measured(
    labels: Labels,
    images: Sequence[NDArray[Any]] = (),
    boxes: Sequence[Box] | None = None,
    voxel_size: Sequence[float] | None = None,
) -> Columns:
    parts = [part(labels, box, images) for box in boxes or [Box.whole(labels.shape)]]
    total = reduce(add, parts, Regions.empty([image.dtype for image in images]))
    return columns_of(total, labels.shape, voxel_size, range(len(images)))


def assert_same_bits(one: Columns, other: Columns) -> None:
    assert list(one) == list(other)
    for name, column in one.items():
        assert column.dtype == other[name].dtype
        assert column.tobytes() == other[name].tobytes(), name


@settings(deadline=None, max_examples=50)
@given(st.data(), st.sampled_from([np.uint8, np.int16, np.uint16, np.bool_]))
def test_the_table_of_any_boxes_has_the_same_bits(data: st.DataObject, dtype: Any) -> None:
    labels = data.draw(embryos(longest=12))
    image = data.draw(st.integers(0, 2**32 - 1).map(np.random.default_rng))
    voxels = image.integers(-(2**15), 2**16, labels.shape).astype(dtype)
    boxes = data.draw(cuts(labels.shape))
    size = (2.0, 0.5, 0.4)[-labels.ndim :]
    whole = measured(labels, [voxels], voxel_size=size)
    assert_same_bits(measured(labels, [voxels], boxes, size), whole)


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_instances_in_pieces_are_one(data: st.DataObject) -> None:
    shape = data.draw(shapes(longest=7))
    labels = data.draw(arrays(np.int64, shape, elements=st.sampled_from([0, 1, 7, 2**62])))
    boxes = data.draw(cuts(shape))
    table = measured(labels, boxes=boxes)
    assert_same_bits(table, measured(labels))
    assert table["label"].tolist() == np.unique(labels[labels > 0]).tolist()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint32, np.int64])
def test_boxes_show_only_in_the_last_digits_of_floats(dtype: Any, rng: np.random.Generator) -> None:
    labels = synthetic_embryo((20, 30, 30), n_objects=20, diameter=9, seed=1)
    image = (1000 + rng.normal(0, 1, labels.shape)).astype(dtype)
    boxes = list(Box.whole(labels.shape).split((7, 11, 13)))
    whole, boxed = measured(labels, [image]), measured(labels, [image], boxes)
    for name in whole:
        np.testing.assert_allclose(boxed[name], whole[name], rtol=1e-9)
    expected = [np.std(image[labels == n].astype(float)) for n in whole["label"]]
    np.testing.assert_allclose(whole["intensity_std_0"], expected, rtol=1e-9)


def test_nan_is_not_hidden() -> None:
    labels = np.array([[1, 1, 2, 2]])
    table = measured(labels, [np.array([[np.nan, 1.0, 2.0, 4.0]])])
    for name in ("mean", "min", "max", "std"):
        assert np.isnan(table[f"intensity_{name}_0"]).tolist() == [True, False], name


@pytest.mark.parametrize("size", [(1.0, 1.0, 1.0), (2.0, 0.5, 0.4)])
def test_a_volume_is_measured_as_by_scikit_image(
    size: tuple[float, ...], rng: np.random.Generator
) -> None:
    labels = synthetic_embryo((40, 60, 60), n_objects=60, diameter=11, seed=3).astype(np.int32)
    images = [rng.integers(0, 2**16, labels.shape).astype(np.uint16) for _ in range(2)]
    boxes = list(Box.whole(labels.shape).split((16, 25, 31)))
    ours = measured(labels, images, boxes, size)
    names = ["label", "num_pixels", "area", "bbox", "centroid", "axis_major_length"]
    names += ["axis_minor_length", *(f"intensity_{n}" for n in ("mean", "min", "max", "std"))]
    theirs = skimage.regionprops_table(labels, np.stack(images, -1), properties=names, spacing=size)
    same = {
        "label": "label",
        "voxels": "num_pixels",
        "volume_um3": "area",
        "axis_major_um": "axis_major_length",
        "axis_minor_um": "axis_minor_length",
    }
    for i, axis in enumerate("zyx"):
        same |= {f"{axis}_start": f"bbox-{i}", f"{axis}_stop": f"bbox-{i + 3}"}
        same[f"{axis}_um"] = f"centroid-{i}"
    for channel in range(2):
        found = [f"intensity_{n}" for n in ("mean", "min", "max", "std")]
        same |= {f"{name}_{channel}": f"{name}-{channel}" for name in found}
    for name, other in same.items():
        np.testing.assert_allclose(ours[name], theirs[other], rtol=1e-9, err_msg=name)


def test_a_plane_is_measured_as_by_scikit_image() -> None:
    labels = synthetic_embryo((90, 90), n_objects=30, diameter=12, seed=5).astype(np.int32)
    ours = measured(labels, boxes=list(Box.whole(labels.shape).split((40, 17))))
    names = ["label", "area", "axis_major_length", "axis_minor_length"]
    theirs = skimage.regionprops_table(labels, properties=names)
    np.testing.assert_array_equal(ours["pixels"], theirs["area"])
    np.testing.assert_allclose(ours["axis_major"], theirs["axis_major_length"])
    np.testing.assert_allclose(ours["axis_minor"], theirs["axis_minor_length"])
    perimeters = [skimage.perimeter_crofton(np.pad(labels == n, 1)) for n in ours["label"]]
    np.testing.assert_allclose(ours["perimeter"], perimeters)
    assert not {"z", "z_start", "axis_middle", "surface"} & set(ours)


def ball(radius: float, size: Sequence[float], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Voxels within a radius (µm) of a centre that lies anywhere in its voxel."""
    lengths = [int(2 * radius / step) + 5 for step in size]
    axes = [
        (np.arange(n) - n / 2 + rng.uniform(-0.5, 0.5)) * step
        for n, step in zip(lengths, size, strict=True)
    ]
    grids = np.meshgrid(*axes, indexing="ij", sparse=True)
    distance: NDArray[np.float64] = sum((g * g for g in grids), np.zeros(1))
    return (distance <= radius * radius).astype(np.uint8)


@pytest.mark.parametrize(
    ("radius", "size", "tolerance"),
    [(4, (1, 1, 1), 0.02), (10, (1, 1, 1), 0.01), (10, (2, 1, 1), 0.03), (10, (5, 1, 1), 0.1)],
)
def test_the_surface_of_a_ball_is_nearly_right(
    radius: float, size: tuple[float, ...], tolerance: float, rng: np.random.Generator
) -> None:
    for _ in range(5):
        table = measured(ball(radius, size, rng), voxel_size=size)
        assert table["surface_um2"][0] == pytest.approx(4 * pi * radius**2, rel=tolerance)
        assert table["sphericity"][0] == pytest.approx(1, rel=1.5 * tolerance)
        assert table["axis_middle_um"][0] == pytest.approx(2 * radius, rel=0.05)


def test_the_perimeter_of_a_disc_is_nearly_right(rng: np.random.Generator) -> None:
    table = measured(ball(12, (1, 0.5), rng), voxel_size=(1, 0.5))
    assert table["perimeter_um"][0] == pytest.approx(2 * pi * 12, rel=0.02)
    assert table["circularity"][0] == pytest.approx(1, rel=0.04)
    assert table["area_um2"][0] == pytest.approx(pi * 144, rel=0.02)


def test_crossings_of_cubes_are_worth_what_is_published() -> None:
    # Lehmann and Legland 2012: shares of 26 directions, 0.0457778, 0.0369806 and 0.0351956.
    shares = np.repeat([0.04577789120476, 0.03698062787608, 0.03519563978232], [3, 3, 1])
    lengths = np.sqrt(np.sum(CLASSES, axis=1))
    np.testing.assert_allclose(worth_of_crossings((1, 1, 1)), 4 * shares / lengths, rtol=1e-9)


@pytest.mark.parametrize(("ndim", "count"), [(2, 4), (3, 13)])
def test_a_cell_has_each_direction_once(ndim: int, count: int) -> None:
    steps = [np.subtract(high, low) for low, high, _ in pairs_of_cell(ndim)]
    both = {tuple(s) for step in steps for s in (step.tolist(), (-step).tolist())}
    assert len(steps) == count
    assert len(both) == 2 * count
    for step, (_, _, number) in zip(steps, pairs_of_cell(ndim), strict=True):
        assert tuple(np.abs(step)) == CLASSES[number]


def test_one_voxel_has_a_place_and_no_axes() -> None:
    labels = np.zeros((3, 4, 5), np.uint16)
    labels[1, 2, 3] = 9
    table = measured(labels, voxel_size=(2.0, 1.0, 0.5))
    row = {name: column.item() for name, column in table.items()}
    assert (row["label"], row["voxels"], row["volume_um3"]) == (9, 1, 1.0)
    assert (row["z"], row["y_um"], row["x_um"]) == (1, 2, 1.5)
    assert (row["z_start"], row["z_stop"]) == (1, 2)
    assert (row["z_start_um"], row["z_stop_um"]) == (1, 3)
    assert row["axis_major_um"] == 0
    assert not row["touches_border"]
    assert row["surface_um2"] > 0


@pytest.mark.parametrize("at", [(0, 2, 2), (2, 4, 2), (2, 2, 4)])
def test_an_instance_at_an_end_of_the_volume_is_flagged_and_closed(at: tuple[int, ...]) -> None:
    labels = np.zeros((5, 5, 5), np.uint8)
    labels[2, 2, 2] = 1
    inside = measured(labels)
    labels[2, 2, 2], labels[at] = 0, 1
    outside = measured(labels)
    assert (inside["touches_border"][0], outside["touches_border"][0]) == (False, True)
    assert inside["surface"] == outside["surface"]


def test_far_from_the_origin_sums_are_exact() -> None:
    near = np.pad(ball(4, (1, 1, 1), np.random.default_rng(1)), 1)
    core = Box.whole(near.shape).grow((-1, -1, -1))
    far = core.shift((2**30, 2**31, 2**32))
    tables = [columns_of(Regions.of(near, box), box.stop, None) for box in (core, far)]
    for name in ("surface", "axis_major", "axis_minor", "sphericity"):
        assert tables[0][name] == tables[1][name], name
    assert tables[1]["x"] - 2**32 == pytest.approx(tables[0]["x"].item())


def test_what_could_be_wrong_is_nan() -> None:
    piece = part(np.ones((1, 2), np.uint8), Box((0, 0), (1, 2)))
    pieces = [piece, part(np.ones((1, 2), np.uint8), Box((0, 0), (1, 2)))]
    far = Regions(piece.ids, piece.sums, piece.low, piece.high + 2**32)
    assert np.isfinite(columns_of(add(*pieces), (1, 2), None)["axis_major"]).all()
    assert np.isnan(columns_of(far, (1, 2**33), None)["axis_major"]).all()


def test_a_constant_bright_instance_has_no_deviation() -> None:
    labels = np.ones((7, 9, 11), np.uint8)
    table = measured(labels, [np.full(labels.shape, 65535, np.uint16)])
    assert (table["intensity_mean_0"][0], table["intensity_std_0"][0]) == (65535, 0)


def test_nothing_has_all_columns() -> None:
    labels = np.zeros((4, 5, 6), np.uint8)
    image = np.zeros(labels.shape, np.float32)
    empty = measured(labels, [image], voxel_size=(1, 1, 1))
    labels[1, 1, 1] = 1
    assert list(empty) == list(measured(labels, [image], voxel_size=(1, 1, 1)))
    assert {column.size for column in empty.values()} == {0}


def test_negative_labels_are_refused() -> None:
    with pytest.raises(VolumeError, match="negative id -2"):
        measured(np.array([[0, -2]]))
