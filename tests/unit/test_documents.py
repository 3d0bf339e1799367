"""Documents of others: neither endless, nor far too large, nor nested without end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from embedseg_large.documents import parse_json, read_document


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"text")
    assert read_document(tmp_path / "a") == b"text"


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ValueError, match="neither a file nor a folder"):
            read_document(place)
    with pytest.raises(ValueError, match="a folder"):
        read_document(tmp_path)


def test_a_file_far_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)  # it takes no room
    with pytest.raises(ValueError, match="1,048,576 MiB, more than 256 MiB"):
        read_document(tmp_path / "large")


@pytest.mark.parametrize("depth", [65, 500, 100_000])
def test_what_is_nested_without_end_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match="nested"):
        parse_json("[" * depth + "]" * depth)


def test_what_metadata_look_like_is_parsed() -> None:
    assert parse_json(b'{"a": [{"b": [1, 2]}]}') == {"a": [{"b": [1, 2]}]}
