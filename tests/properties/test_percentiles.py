"""Whatever the voxels are, the out-of-core percentiles equal those of numpy."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from embedseg_large.errors import IntensityError
from embedseg_large.geometry import Box
from embedseg_large.volumes.intensity import intensity_range, summarise
from embedseg_large.volumes.volume import open_volume

DTYPES = ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]
SHAPES = npst.array_shapes(min_dims=2, max_dims=3, max_side=9)


def images(dtype: str) -> st.SearchStrategy[NDArray[Any]]:
    """Images of any values that are finite as float32, with many ties and with none."""
    kind = np.dtype(dtype).kind
    if kind != "f":
        return npst.arrays(dtype, SHAPES)
    bits = min(8 * np.dtype(dtype).itemsize, 32)
    limits: dict[str, Any] = {"allow_nan": False, "allow_infinity": False, "width": bits}
    return npst.arrays(dtype, SHAPES, elements=st.floats(**limits))


def as_seen(image: NDArray[Any]) -> NDArray[np.float64]:
    """Voxels as they are counted, in a type that interpolates exactly enough."""
    small = image.dtype.kind in "bui" and image.dtype.itemsize <= 2
    return (image if small else image.astype(np.float32)).astype(np.float64)


def ascending() -> st.SearchStrategy[tuple[float, float]]:
    fraction = st.floats(0, 100, allow_nan=False)
    pair = st.tuples(fraction, fraction).filter(lambda p: p[0] != p[1])
    return st.one_of(st.just((1.0, 99.8)), pair.map(lambda p: (min(p), max(p))))


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_percentiles_equal_those_of_numpy(dtype: str, data: st.DataObject) -> None:
    image = data.draw(images(dtype))
    wanted = data.draw(ascending())
    low, high = np.percentile(as_seen(image), wanted)
    volume = open_volume(image, axes="zyx"[-image.ndim :], nodata="none")
    if low == high:
        with pytest.raises(IntensityError, match="constant"):
            intensity_range(volume, percentiles=wanted)
        return
    found = intensity_range(volume, percentiles=wanted)
    assert found.low == low
    if found.saturated_voxels:  # then the upper one is that of the other voxels
        darker = as_seen(image)[as_seen(image) < high]
        assert high == as_seen(image).max()
        assert found.high == pytest.approx(np.percentile(darker, wanted[1]), rel=1e-6)
    else:
        assert found.high == high


@settings(max_examples=40, deadline=None)
@given(image=images("i2"), cut=st.tuples(*[st.integers(1, 4)] * 2), seed=st.integers(0, 99))
def test_histograms_add_up_in_any_cut_and_order(
    image: NDArray[Any], cut: tuple[int, ...], seed: int
) -> None:
    volume = open_volume(image, axes="zyx"[-image.ndim :], nodata="none")
    boxes = list(Box.whole(image.shape).split((2, *cut)[-image.ndim :]))
    np.random.default_rng(seed).shuffle(boxes)
    total = reduce(add, [summarise(volume, box) for box in boxes])
    values, counts = np.unique(image, return_counts=True)
    np.testing.assert_array_equal(total.keys.astype(np.int64) + np.iinfo(np.int16).min, values)
    np.testing.assert_array_equal(total.counts, counts)
