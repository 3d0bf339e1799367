"""Cores cover every voxel exactly once, whatever the shapes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedseg_large.geometry import Box
from embedseg_large.tiling.axis import core, grown, total_grown
from embedseg_large.tiling.grid import Grid


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    ndim = draw(st.sampled_from([2, 3]))
    sizes = st.integers(1, 20)
    shape = tuple(draw(sizes) for _ in range(ndim))
    step = tuple(draw(sizes) for _ in range(ndim))
    margin = tuple(draw(st.integers(0, 8)) for _ in range(ndim))
    return Grid(shape, step, margin, padded=draw(st.booleans()))


@given(grids())
def test_cores_cover_every_voxel_once(grid: Grid) -> None:
    seen = np.zeros(grid.shape, int)
    for index in grid:
        seen[grid.tile(index).core.slices] += 1
    assert (seen == 1).all()
    assert len(list(grid)) == len(grid)


@given(grids())
def test_a_region_holds_its_core_and_lies_in_the_bounds(grid: Grid) -> None:
    for index in grid:
        tile = grid.tile(index)
        assert tile.region.contains(tile.core)
        assert Box.whole(grid.bounds).contains(tile.region)


@given(grids(), st.data())
def test_the_sum_of_regions_is_arithmetic(grid: Grid, data: st.DataObject) -> None:
    for n, step, margin, bound in zip(grid.shape, grid.step, grid.margin, grid.bounds, strict=True):
        end = data.draw(st.integers(0, -(-n // step)))
        first = data.draw(st.integers(0, end))
        regions = [grown(*core(i, n, step), margin, bound) for i in range(first, end)]
        assert total_grown(first, end, n, step, margin, bound) == sum(b - a for a, b in regions)


@given(grids(), st.data())
def test_the_tiles_touching_a_box_are_those_that_share_a_voxel(
    grid: Grid, data: st.DataObject
) -> None:
    start = tuple(data.draw(st.integers(0, n - 1)) for n in grid.shape)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, grid.shape, strict=True))
    box = Box(start, stop)
    sharing = [i for i in grid if grid.tile(i).core.intersect(box).size > 0]
    assert list(grid.touching(box)) == sharing


@given(grids(), st.lists(st.integers(1, 9), min_size=3, max_size=3))
def test_a_box_splits_into_lattice_cells(grid: Grid, cell: list[int]) -> None:
    seen = np.zeros(grid.shape, int)
    for part in Box.whole(grid.shape).split(cell[: len(grid.shape)]):
        seen[part.slices] += 1
    assert (seen == 1).all()


@given(grids(), st.integers(0, 5))
def test_widths_around_a_box_pad_it_to_the_one_outside(grid: Grid, by: int) -> None:
    whole = Box.whole(grid.shape)
    outer = whole.grow((by,) * len(grid.shape))
    padded = np.pad(np.ones(grid.shape, int), outer.widths_around(whole))
    assert padded.shape == outer.shape
    assert padded[whole.slices_in(outer)].all()
    assert padded.sum() == whole.size
