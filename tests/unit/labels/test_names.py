"""Names of labels: those that are asked for, and those that somebody's store lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embedseg_large.errors import UsageError
from embedseg_large.labels.folder import LONGEST_NAME, is_label_name
from embedseg_large.labels.published import label_names, place_of_labels
from embedseg_large.labels.target import label_target
from embedseg_large.storage.group import ZarrGroup
from embedseg_large.volumes.volume import open_volume

BAD = [
    "",
    ".",
    "..",
    ".hidden",
    "__private",
    "a/b",
    "../../other.zarr",
    "a\\b",
    "zarr.json",
    "a\nb",
    "\x7f",
    "a\0b",
    "n" * 300,
    "\u00e9" * 150,
    "\udc80nuclei",
    "\u202enuclei",
]
GOOD = ["nuclei", "nuclei.bak", "cells 2", "K\u00f6rner", "n" * LONGEST_NAME, "\u7d30\u80de"]


@pytest.mark.parametrize("name", GOOD)
def test_a_name_is_one_folder_on_any_disk(tmp_path: Path, name: str) -> None:
    assert is_label_name(name)
    (tmp_path / f".{name}-0123abcd.old").mkdir()


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_another_name_is_refused_in_one_printable_line(tmp_path: Path, name: str) -> None:
    assert not is_label_name(name)
    image = open_volume(np.zeros((8, 8), np.uint8))
    with pytest.raises(UsageError, match="cannot name labels; use at most") as error:
        label_target(image, name, output=tmp_path / "out.zarr")
    assert str(error.value).isprintable()
    with pytest.raises(UsageError, match="cannot name labels"):
        place_of_labels(str(tmp_path), name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [None, 7, True, ["nuclei"], {"a": 1}])
def test_what_is_no_text_is_no_name(kind: object) -> None:
    assert not is_label_name(kind)


def test_of_a_list_only_names_of_labels_are_believed(tmp_path: Path) -> None:
    names = ["nuclei", "../../other.zarr", "a/b", 7, None, "n" * 300, "/etc", "cells"]
    ZarrGroup.at(tmp_path / "labels").write(3, {"ome": {"labels": names}})
    assert label_names(str(tmp_path)) == ["cells", "nuclei"]


@pytest.mark.parametrize("listed", ["nuclei", 7, None, {"nuclei": 1}])
def test_what_is_no_list_holds_no_names(tmp_path: Path, listed: object) -> None:
    ZarrGroup.at(tmp_path / "labels").write(3, {"ome": {"labels": listed}})
    assert label_names(str(tmp_path)) == []


@pytest.mark.parametrize(
    ("listed", "only"),
    [
        (["nuclei", "nuclei.bak", "nuclei.bak1"], "labels/nuclei"),
        (["nuclei.bak"], "labels/nuclei.bak"),
        (["nuclei.bak", "cells"], None),
        (["nuclei", "cells"], None),
    ],
)
def test_older_labels_that_were_kept_are_not_among_those_to_choose_from(
    tmp_path: Path, listed: list[str], only: str | None
) -> None:
    ZarrGroup.at(tmp_path / "labels").write(3, {"ome": {"labels": listed}})
    if only is not None:
        assert place_of_labels(str(tmp_path), None) == f"{tmp_path}/{only}"
        return
    with pytest.raises(UsageError, match="has several labels; choose with"):
        place_of_labels(str(tmp_path), None)
