"""Which voxels of a layer are meant, where results belong, and what painted labels annotate."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import dask.array as da
import numpy as np
import pytest
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.napari.painting import RIM, painted_on
from embedseg_large.napari.selection import (
    box_in_view,
    box_of_shapes,
    corners_of,
    source_of,
    within_planes,
)

Floats = NDArray[np.float64]


class FakeLayer:
    """What a layer of napari tells of itself; scaled and moved, not turned."""

    rgb = False
    rotate = shear = None

    def __init__(
        self,
        data: Any,
        scale: Sequence[float] | None = None,
        translate: Sequence[float] | None = None,
        axis_labels: Sequence[str] | None = None,
        data_level: int = 0,
        **_: Any,
    ) -> None:
        self.data, self.name, self.data_level = data, "embryo", data_level
        self.multiscale = isinstance(data, list)
        self.finest = data[0] if self.multiscale else data
        self.ndim = self.finest.ndim
        self.scale = np.ones(self.ndim) if scale is None else np.array(scale, float)
        self.translate = np.zeros(self.ndim) if translate is None else np.array(translate, float)
        self.units = ("pixel",) * self.ndim
        self.axis_labels = axis_labels or tuple(f"-{n}" for n in range(self.ndim, 0, -1))
        self.affine = SimpleNamespace(
            linear_matrix=np.eye(self.ndim), affine_matrix=np.eye(self.ndim + 1)
        )
        levels = data if self.multiscale else [data]
        self.downsample_factors = np.array([np.divide(self.finest.shape, a.shape) for a in levels])
        self.corner_pixels = np.zeros((2, self.ndim), int)

    def data_to_world(self, place: Sequence[float]) -> Floats:
        return np.asarray(np.multiply(place, self.scale) + self.translate, float)

    def world_to_data(self, place: Sequence[float]) -> Floats:
        here = np.asarray(place, float)[-self.ndim :]
        return np.asarray((here - self.translate) / self.scale, float)


def volume(*shape: int) -> NDArray[np.uint16]:
    return np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)


def test_of_axes_in_front_the_place_that_is_shown_is_meant() -> None:
    movie = volume(4, 5, 6, 7)
    source = source_of(FakeLayer(movie, scale=(10, 2, 1, 1)), 3, (21, 0, 0, 0))
    assert source.leading == (2,)
    assert np.array_equal(source.array, movie[2])


def test_a_2d_model_sees_the_plane_that_is_shown() -> None:
    stack = volume(5, 6, 7)
    assert np.array_equal(source_of(FakeLayer(stack), 2, (3, 0, 0)).array, stack[3])


def test_a_lazy_array_stays_lazy() -> None:
    source = source_of(FakeLayer(da.from_array(volume(2, 4, 4, 4), chunks=2)), 3, (1, 0, 0, 0))
    assert isinstance(source.array, da.Array)


def test_an_array_of_another_kind_becomes_a_lazy_one() -> None:
    class Opaque:
        dtype, ndim, shape = np.dtype(np.uint16), 3, (4, 4, 4)

        def __getitem__(self, index: Any) -> Any:
            return volume(4, 4, 4)[index]

    source = source_of(FakeLayer(Opaque()), 3, (0, 0, 0))
    assert isinstance(source.array, da.Array)
    assert np.array_equal(source.array.compute(), volume(4, 4, 4))


def test_of_a_pyramid_the_level_that_is_shown_is_meant() -> None:
    levels = [volume(8, 8, 8), volume(8, 4, 4)]
    source = source_of(FakeLayer(levels, scale=(2, 1, 1), data_level=1), 3, (0, 0, 0))
    assert source.level == 1
    assert np.array_equal(source.array, levels[1])
    assert source.voxel_size == (2, 2, 2)


def test_a_result_lies_on_the_voxels_it_was_found_in() -> None:
    layer = FakeLayer([volume(3, 8, 8, 8), volume(3, 8, 4, 4)], (5, 2, 1, 1), (0, 7, 0, 3))
    source = source_of(layer, 3, (10, 0, 0, 0), level=1)
    box = Box((2, 1, 1), (4, 3, 3))
    found = FakeLayer(source.in_front(np.zeros(box.shape)), **source.placed(box))
    # voxel 1, 1 of level 1 is voxels 2 to 3 of level 0
    assert np.allclose(found.data_to_world([0, 0, 0, 0]), layer.data_to_world([2, 2, 2.5, 2.5]))
    assert np.allclose(found.data_to_world([0, 1, 1, 1]), layer.data_to_world([2, 3, 4.5, 4.5]))


def test_an_rgb_image_is_refused() -> None:
    layer = FakeLayer(volume(8, 8))
    layer.rgb = True
    with pytest.raises(UsageError, match="embryo is an RGB image; split it"):
        source_of(layer, 2, (0, 0))


def test_too_few_axes_are_said() -> None:
    with pytest.raises(UsageError, match="embryo has 2 axes, the model is 3D"):
        source_of(FakeLayer(volume(8, 8)), 3, (0, 0))


def test_time_is_no_axis_of_space() -> None:
    with pytest.raises(UsageError, match="the last 3 axes of embryo are t, y, x, and t is time"):
        source_of(FakeLayer(volume(8, 8, 8), axis_labels=("t", "y", "x")), 3, (0, 0, 0))


def test_a_scale_of_one_pixel_says_nothing_of_the_voxel_size() -> None:
    assert source_of(FakeLayer(volume(4, 4, 4)), 3, (0, 0, 0)).voxel_size is None
    scaled = FakeLayer(volume(4, 4, 4), scale=(2, 0.4, 0.4))
    assert source_of(scaled, 3, (0, 0, 0)).voxel_size == (2, 0.4, 0.4)


def test_a_rectangle_means_the_voxels_whose_middles_it_holds() -> None:
    source = source_of(FakeLayer(volume(6, 10, 10), (2, 0.5, 0.5), (0, 5, 0)), 3, (0, 0, 0))
    drawn = np.array([[4.0, 6.0, 1.0], [4.0, 7.0, 1.0], [4.0, 7.0, 99.0], [4.0, 6.0, 99.0]])
    assert box_of_shapes(source, [drawn]) == Box((0, 2, 2), (6, 5, 10))


def test_a_shape_without_a_z_axis_means_all_planes() -> None:
    source = source_of(FakeLayer(volume(6, 10, 10)), 3, (0, 0, 0))
    drawn = np.array([[2.0, 3.0], [5.0, 8.0]])
    assert box_of_shapes(source, [drawn]) == Box((0, 2, 3), (6, 6, 9))


def test_the_selected_shapes_are_meant_or_else_the_last() -> None:
    def shapes(selected: set[int]) -> Any:
        data = [np.array([[k, k], [k + 1, k + 1]]) for k in range(3)]
        return SimpleNamespace(data=data, selected_data=selected, data_to_world=lambda c: c)

    assert [c[0, 0] for c in corners_of(shapes({0, 1}))] == [0, 1]
    assert [c[0, 0] for c in corners_of(shapes(set()))] == [2]
    assert corners_of(None) == []


def test_a_shape_beside_the_image_is_refused() -> None:
    source = source_of(FakeLayer(volume(10, 10)), 2, (0, 0))
    with pytest.raises(UsageError, match="the drawn shape has no voxel of embryo"):
        box_of_shapes(source, [np.array([[-9.0, 2.0], [-3.0, 5.0]])])
    with pytest.raises(UsageError, match="no shape is drawn"):
        box_of_shapes(source, [])


def test_what_is_in_view_is_whole_along_axes_that_are_not_on_the_screen() -> None:
    layer = FakeLayer(volume(3, 6, 10, 10))
    layer.corner_pixels = np.array([[0, 0, 2, 3], [0, 0, 5, 9]])
    source = source_of(layer, 3, (0, 0, 0, 0))
    assert box_in_view(source, (2, 3)) == Box((0, 2, 3), (6, 6, 10))


def test_planes_limit_a_region() -> None:
    box = Box((0, 2, 3), (6, 6, 10))
    assert within_planes(box, (2, 4)) == Box((2, 2, 3), (5, 6, 10))
    with pytest.raises(UsageError, match="planes 6 to 9 are not in the region"):
        within_planes(box, (6, 9))
    with pytest.raises(UsageError, match="the first plane, 4, is after the last, 2; swap them"):
        within_planes(box, (4, 2))


def painted(*at: int) -> NDArray[np.int32]:
    labels = np.zeros((24, 24), np.int32)
    labels[at] = 3
    return labels


def test_labels_of_a_region_annotate_no_more_than_it() -> None:
    image = FakeLayer(volume(40, 40), scale=(0.5, 0.5))
    labels = FakeLayer(painted(10, 10), scale=(0.5, 0.5), translate=(4, 5))
    mask = painted_on(image, labels, 2, (0, 0)).mask(all_painted=True)
    assert mask[18, 20] == 3
    assert (mask[8:32, 10:34] >= 0).all()
    assert (mask >= 0).sum() == 24 * 24


def test_labels_that_reach_beyond_the_image_are_cut() -> None:
    found = painted_on(FakeLayer(volume(20, 20)), FakeLayer(painted(10, 10)), 2, (0, 0))
    assert found.mask(all_painted=True).shape == (20, 20)


def test_where_not_all_is_painted_only_a_rim_is_background() -> None:
    labels = FakeLayer(painted(12, 12))
    mask = painted_on(FakeLayer(volume(24, 24)), labels, 2, (0, 0)).mask(all_painted=False)
    assert mask[12, 12 + RIM] == 0
    assert mask[12, 12 + RIM + 1] == -1


def test_labels_find_the_level_that_they_were_painted_on() -> None:
    image = FakeLayer([volume(48, 48), volume(24, 24)])
    labels = FakeLayer(painted(3, 3), scale=(2, 2), translate=(0.5, 0.5))
    assert painted_on(image, labels, 2, (0, 0)).image.level == 1


@pytest.mark.parametrize(
    "placed", [{"scale": (3, 3)}, {"translate": (0.4, 0)}, {"translate": (100, 0)}]
)
def test_labels_of_another_image_are_refused(placed: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="does not match the voxels of embryo"):
        painted_on(FakeLayer(volume(24, 24)), FakeLayer(painted(3, 3), **placed), 2, (0, 0))


def test_empty_labels_are_refused() -> None:
    empty = FakeLayer(np.zeros((24, 24), np.int32))
    with pytest.raises(UsageError, match="nothing is painted in embryo"):
        painted_on(FakeLayer(volume(24, 24)), empty, 2, (0, 0)).mask(all_painted=True)
