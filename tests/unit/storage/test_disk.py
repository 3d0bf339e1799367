"""Files that appear whole or not at all, also where nothing can be removed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import zarr

from embedseg_large.errors import OutputError, PlaceError, RunError, UnreachableError, UsageError
from embedseg_large.storage.disk import _CHUNK_PART, check_file, replaced, sweep, whole_file
from embedseg_large.storage.group import ZarrGroup
from embedseg_large.storage.open import folder_at


def refuse(path: Path, *_: object, **__: object) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))


def test_a_file_appears_when_all_of_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with whole_file(path) as begun:
        begun.write_text("new")
        assert not path.exists()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "new")]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), ValueError(), KeyboardInterrupt()]
)
def test_after_a_failure_the_old_file_stays_and_no_rest(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    expected = OutputError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected), whole_file(path) as begun:  # noqa: PT012
        begun.write_text("half")
        raise error
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "old")]


def test_a_disk_that_refuses_even_to_remove_is_told_as_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("write_text", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    with (
        pytest.raises(OutputError, match=r"a\.txt: cannot be written \(Read-only"),
        whole_file(tmp_path / "a.txt") as begun,
    ):
        begun.write_text("new")


def test_a_place_is_checked_and_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_file(tmp_path / "a.txt")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="there is no folder"):
        check_file(tmp_path / "nowhere" / "a.txt")
    with pytest.raises(UsageError, match="it is a folder"):
        check_file(tmp_path)
    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(PlaceError, match=r"a\.txt: .* is read-only; name another place"):
        check_file(tmp_path / "a.txt")


def test_what_a_suspended_writer_left_of_a_chunk_is_not_published(tmp_path: Path) -> None:
    new, final = tmp_path / ".new", tmp_path / "final"
    chunks = new / "0" / "c" / "0"
    chunks.mkdir(parents=True)
    for name in ("0", "1.partial", f"1.{'0af1' * 8}.partial"):
        (chunks / name).write_bytes(b"voxels")
    with replaced(new, final, tmp_path / ".aside"):
        assert sorted(p.name for p in (final / "0/c/0").iterdir()) == ["0", "1.partial"]


def test_the_unfinished_files_of_zarr_are_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A contract: the name that zarr gives a chunk until it is whole."""
    monkeypatch.setattr(Path, "replace", lambda *_: None)
    array = zarr.create_array(tmp_path / "new", shape=(4,), chunks=(2,), dtype="u1")
    array[:] = 1
    left = [p for p in (tmp_path / "new").rglob("*") if "partial" in p.name]
    assert left
    assert all(_CHUNK_PART.search(p.name) for p in left)


def test_a_folder_that_another_process_has_published_is_not_made_again(tmp_path: Path) -> None:
    """Who woke up after that once published an empty group in the place of the labels."""
    new, final = tmp_path / ".new", tmp_path / "final"
    final.mkdir()
    for zarr_format in (2, 3):
        with pytest.raises(RunError, match="another run has taken over; nothing was published"):
            ZarrGroup.at(new).describe(zarr_format, {"a": 1})
    with (
        pytest.raises(RunError, match="nothing was published"),
        replaced(new, final, tmp_path / ".aside"),
    ):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["final"]


def test_a_file_larger_than_it_may_be_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_bytes(b"12345")
    folder = folder_at(tmp_path)
    assert folder.read("zarr.json", 5) == b"12345"
    with pytest.raises(UnreachableError, match=r"zarr\.json: .*MiB, more than .* MiB"):
        folder.read("zarr.json", 4)


def test_only_incomplete_files_of_this_program_are_swept(tmp_path: Path) -> None:
    own = [".movie-download.part", ".movie.part", "movie-0a1b2c3d.part"]
    for name in (*own, ".zarr.json-0a1b2c3d.part"):
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(own)
