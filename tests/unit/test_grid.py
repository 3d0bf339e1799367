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
