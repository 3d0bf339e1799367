"""Whether two paths or URLs are the same place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from embedseg_large.storage.connection import is_same_place


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("/a/b.zarr", "/a/b.zarr/", True),
        ("/a/b.zarr", "/a/./c/../b.zarr", True),
        ("/a/b c.zarr", "file:///a/b%20c.zarr", True),
        ("/a/b.zarr", "/a/c.zarr", False),
        ("s3://bucket/a", "s3://bucket/a/", True),
        ("https://user:word@host/a?token=1", "https://host/a", True),
        ("s3://bucket/a", "/bucket/a", False),
        ("s3://bucket/a", "gs://bucket/a", False),
        ("strange://", "/a", False),
        ("\0", "/a", False),
        ("\0", "\0", True),
    ],
)
def test_the_form_of_a_place_does_not_count(one: str, other: str, expected: bool) -> None:
    assert is_same_place(one, other) is expected
    assert is_same_place(other, one) is expected


def test_a_link_and_a_relative_path_are_the_place_they_lead_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    monkeypatch.chdir(tmp_path)
    assert is_same_place("link", os.fspath(tmp_path / "a"))
    assert is_same_place("a", "./link/")
