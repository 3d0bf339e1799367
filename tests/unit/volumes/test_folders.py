"""Images in folders: what counts as one, what it is called, and which belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedseg_large.errors import UsageError
from embedseg_large.volumes.folders import (
    images_by_stem,
    is_folder_of_images,
    is_path,
    name_of,
    pair_by_stem,
    stem,
)


def folder_of(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        (path / name).touch()
    return path


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/embryo.tif", "embryo"),
        ("embryo.OME.TIFF", "embryo"),
        ("embryo.ome.zarr/", "embryo"),
        ("https://host/bucket/embryo.1.zarr", "embryo.1"),
        (Path("a/embryo"), "embryo"),
        ("embryo.tif.txt", "embryo.tif.txt"),
        (".tif", ""),
    ],
)
def test_a_stem_is_the_name_before_the_ending_of_an_image(path: Any, expected: str) -> None:
    assert stem(path) == expected


def test_a_source_is_called_by_its_stem_or_its_number() -> None:
    assert name_of("a/embryo.tif", 3) == "embryo"
    assert name_of(np.zeros(2), 3) == "image 3"
    assert is_path(Path("a"))
    assert not is_path(np.zeros(2))


@pytest.mark.parametrize("document", ["zarr.json", ".zgroup", ".zarray", ".zattrs"])
def test_a_folder_that_is_an_image_is_no_folder_of_images(tmp_path: Path, document: str) -> None:
    assert is_folder_of_images(tmp_path)
    (tmp_path / document).touch()
    assert not is_folder_of_images(tmp_path)


def test_files_urls_and_arrays_are_no_folders(tmp_path: Path) -> None:
    (tmp_path / "a.tif").touch()
    for source in (tmp_path / "a.tif", tmp_path / "none", "https://host/a", np.zeros(2), ["a"]):
        assert not is_folder_of_images(source)


def test_only_images_that_are_not_hidden_count(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images", "b.tif", "a.TIFF", "notes.txt", ".c.tif", "d")
    (folder / "e.ome.zarr").mkdir()
    (folder / "older").mkdir()
    assert list(images_by_stem(folder)) == ["a", "b", "e"]
    assert images_by_stem(folder)["a"] == folder / "a.TIFF"


def test_pairs_are_those_of_one_stem_in_the_order_of_the_stems(tmp_path: Path) -> None:
    left = folder_of(tmp_path / "left", "b.tif", "a.ome.tif", "a-1.tif")
    right = folder_of(tmp_path / "right", "a.tif", "b.zarr", "a-1.tiff")
    assert pair_by_stem(left, right) == [
        ("a", left / "a.ome.tif", right / "a.tif"),
        ("a-1", left / "a-1.tif", right / "a-1.tiff"),
        ("b", left / "b.tif", right / "b.zarr"),
    ]


def test_files_without_a_partner_are_told_by_side_with_a_few_examples(tmp_path: Path) -> None:
    left = folder_of(tmp_path / "left", "both.tif", *(f"{n}.tif" for n in "fedcb"))
    right = folder_of(tmp_path / "right", "both.tif", "other.tif")
    with pytest.raises(UsageError) as caught:
        pair_by_stem(left, right, ("prediction", "truth"))
    assert str(caught.value) == (
        f"{left}: no truth for b.tif, c.tif, d.tif and 2 more; {right}: no prediction for "
        "other.tif; give both files of a pair the same name, or remove what has no partner"
    )


def test_two_files_of_one_stem_are_not_guessed_between(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images", "a.tif", "a.tiff")
    with pytest.raises(UsageError, match=r"a\.tif and a\.tiff have the same stem; keep one"):
        images_by_stem(folder)


def test_a_folder_without_images_says_what_images_end_in(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images", "a.jpg")
    with pytest.raises(UsageError, match=r"images: no images .* \.ome\.zarr, .*\.png$"):
        images_by_stem(folder)
