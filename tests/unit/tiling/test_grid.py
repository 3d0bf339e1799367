"""Tiles of a volume."""

from embedseg_large.geometry import Box
from embedseg_large.tiling.grid import Face, Grid


def test_regions_are_clipped_to_the_volume() -> None:
    grid = Grid((100, 50), (64, 50), (16, 16))
    assert grid.tile((0, 0)).region == Box((0, 0), (80, 50))
    assert grid.tile((1, 0)).region == Box((48, 0), (100, 50))


def test_padded_regions_end_on_a_multiple_of_the_stride() -> None:
    grid = Grid((100, 50), (64, 56), (16, 16), padded=True)
    assert grid.tile((1, 0)).region == Box((48, 0), (104, 56))
    assert grid.tile((1, 0)).core == Box((64, 0), (100, 50))


def test_a_face_is_seen_from_both_sides() -> None:
    grid = Grid((100, 100), (50, 50), (4, 4))
    face = Face(0, (0, 1), (1, 1))
    assert face in grid.faces((0, 1))
    assert face in grid.faces((1, 1))
    assert grid.seam(face, 2) == Box((48, 50), (52, 100))


def test_a_seam_does_not_leave_a_core_of_one_voxel() -> None:
    grid = Grid((51, 10), (50, 10), (4, 4))
    assert grid.seam(Face(0, (0, 0), (1, 0)), 2) == Box((48, 0), (51, 10))


def test_tiles_are_numbered_in_raster_order() -> None:
    grid = Grid((100, 100, 30), (50, 40, 30), (4, 4, 4))
    assert [grid.number(index) for index in grid] == list(range(len(grid)))


def test_a_part_has_the_tiles_that_touch_it_and_cores_inside_it() -> None:
    whole = Grid((100, 100), (50, 40), (8, 8))
    part = Grid((100, 100), (50, 40), (8, 8), within=Box((40, 45), (60, 79)))
    assert list(part) == [(0, 1), (1, 1)]
    assert len(part) == 2
    assert part.counts == whole.counts
    assert [part.number(index) for index in part] == [whole.number(index) for index in part]
    assert part.tile((0, 1)).core == Box((40, 45), (50, 79))
    assert part.tile((0, 1)).region == Box((32, 37), (58, 87))
    assert part.seen() == Box((32, 37), (68, 87))
    assert list(part.faces((0, 1))) == [Face(0, (0, 1), (1, 1))]
    assert list(part.touching(Box((0, 0), (100, 50)))) == [(0, 1), (1, 1)]
    assert list(part.touching(Box((0, 0), (30, 100)))) == []
    assert part.entire() == whole


def test_a_part_of_a_grid_of_a_trillion_tiles_is_as_good_as_any() -> None:
    part = Grid((10**6,) * 3, (100,) * 3, (30,) * 3, within=Box((500_000,) * 3, (500_150,) * 3))
    assert len(part) == len(list(part)) == 8
    assert part.seen() == Box((499_970,) * 3, (500_180,) * 3)
