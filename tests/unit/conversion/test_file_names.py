"""A pattern says what the names of files mean; nothing is guessed, and no file may be missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedseg_large.conversion.file_names import files_in_order, files_of_pattern, split_pattern
from embedseg_large.errors import UsageError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    return folder


def test_fields_are_numbers_wherever_they_begin(tmp_path: Path) -> None:
    touch(tmp_path, *(f"p_{z:04d}.tif" for z in range(9, 12)), "p_mean.tif", ".p_0012.tif")
    grid = files_of_pattern(tmp_path, "p_{z:04d}.tif")
    assert (grid.axes, grid.counts) == ("z", (3,))
    assert grid.names == ("p_0009.tif", "p_0010.tif", "p_0011.tif")
    assert grid.paths[0] == str(tmp_path / "p_0009.tif")


def test_files_come_in_raster_order_of_the_fields(tmp_path: Path) -> None:
    touch(tmp_path, *(f"t{t}_c{c}_z{z}.tif" for t in (1, 2) for c in (0, 1) for z in (8, 9, 10)))
    grid = files_of_pattern(tmp_path, "t{t}_c{c}_z{z}.tif")
    assert (grid.axes, grid.counts, grid.channels) == ("tcz", (2, 2, 3), None)
    assert grid.names[:4] == ("t1_c0_z8.tif", "t1_c0_z9.tif", "t1_c0_z10.tif", "t1_c1_z8.tif")


def test_channels_may_be_words(tmp_path: Path) -> None:
    touch(tmp_path, *(f"img_{z:03d}_{c}.tif" for z in range(2) for c in ("GFP", "DAPI 405")))
    grid = files_of_pattern(tmp_path, "img_{z}_{c}.tif")
    assert (grid.axes, grid.counts) == ("zc", (2, 2))
    assert grid.channels == ("DAPI 405", "GFP")
    assert grid.names[0] == "img_000_DAPI 405.tif"


def test_fields_may_be_in_folders_and_come_twice(tmp_path: Path) -> None:
    touch(tmp_path, "t1/t1_z0.tif", "t1/t1_z1.tif", "t2/t2_z0.tif", "t2/t2_z1.tif", "t2/t1_z0.tif")
    grid = files_of_pattern(tmp_path, "t{t}/t{t}_z{z}.tif")
    assert grid.names == ("t1/t1_z0.tif", "t1/t1_z1.tif", "t2/t2_z0.tif", "t2/t2_z1.tif")


def test_letters_that_mean_something_elsewhere_mean_themselves(tmp_path: Path) -> None:
    touch(tmp_path, "a[1]+(z0).tif", "a[1]+(z1).tif", "a1z0.tif")
    grid = files_of_pattern(tmp_path, "a[1]+(z{z}).tif")
    assert grid.names == ("a[1]+(z0).tif", "a[1]+(z1).tif")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    touch(tmp_path, *(f"p_{z:02d}.tif" for z in (0, 1, 4)))
    with pytest.raises(
        UsageError, match=r"2 of 5 .*z from 0 to 4.*p_02\.tif, p_03\.tif.*--stack z"
    ):
        files_of_pattern(tmp_path, "p_{z:02d}.tif")


def test_numbers_that_are_times_do_not_fill_the_memory(tmp_path: Path) -> None:
    touch(tmp_path, *(f"t{10**15 + t * 10**13}.tif" for t in range(3)))
    with pytest.raises(UsageError, match=r"missing \(t from 10{15} .* as t10{14}1\.tif"):
        files_of_pattern(tmp_path, "t{t}.tif")


def test_a_missing_combination_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "c0z0.tif", "c0z1.tif", "c1z0.tif")
    with pytest.raises(UsageError, match=r"1 of 4 .* such as c1z1\.tif; add them$"):
        files_of_pattern(tmp_path, "c{c}z{z}.tif")


def test_two_files_of_one_position_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "z1.tif", "z01.tif")
    with pytest.raises(UsageError, match=r"z01\.tif and z1\.tif have the same position"):
        files_of_pattern(tmp_path, "z{z}.tif")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("plane.tif", "has no field"),
        ("p{y}.tif", "none of"),
        ("p{zz}.tif", "none of"),
        ("q{z}.tif", r"no file matches 'q\{z\}\.tif'; there is p0\.tif"),
    ],
)
def test_a_pattern_that_cannot_be_meant_is_refused(
    tmp_path: Path, pattern: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        files_of_pattern(touch(tmp_path, "p0.tif"), pattern)


@pytest.mark.parametrize(
    ("numbers", "gap"),
    [
        ((0, 1, 2, 3, 5, 6), "z003.tif and z005.tif"),
        ((8, 9, 10, 12), "z010.tif and z012.tif"),
        ((0, 5, 10, 20, 25), "z010.tif and z020.tif"),
        ((0, 1, 2, 3), None),
        ((0, 5, 10, 15), None),
        ((3, 17, 18, 40, 90), None),
        ((0, 2), None),
    ],
)
def test_a_gap_between_numbers_is_reported(
    tmp_path: Path, numbers: tuple[int, ...], gap: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    for number in numbers:
        (tmp_path / f"z{number:03d}.tif").touch()
    assert len(files_in_order(tmp_path, "z").names) == len(numbers)
    assert [r.getMessage().partition(" between ")[2].partition(";")[0] for r in caplog.records] == (
        [] if gap is None else [gap]
    )


def test_files_without_a_pattern_come_in_natural_order(tmp_path: Path) -> None:
    grid = files_in_order(touch(tmp_path, "p10.tif", "p9.TIFF", "p1.tif", "notes.txt"), "t")
    assert (grid.axes, grid.counts) == ("t", (3,))
    assert grid.names == ("p1.tif", "p9.TIFF", "p10.tif")


@pytest.mark.parametrize("axis", ["y", "", "tz"])
def test_files_stand_for_t_c_or_z_only(tmp_path: Path, axis: str) -> None:
    with pytest.raises(UsageError, match="use t, c or z"):
        files_in_order(touch(tmp_path, "a.tif"), axis)


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("a/b/p{z}.tif", ("a/b", "p{z}.tif")),
        ("a/t{t}/p{z}.tif", ("a", "t{t}/p{z}.tif")),
        ("p{z}.tif", (".", "p{z}.tif")),
        ("/p{z}.tif", ("/", "p{z}.tif")),
        ("a/b.tif", None),
    ],
)
def test_a_path_splits_before_the_first_part_with_a_field(
    path: str, parts: tuple[str, str] | None
) -> None:
    assert split_pattern(path) == parts
