"""Files appear whole, and durable ones are on the disk before anything refers to them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedseg_large as es
from embedseg_large.files import is_url, make_folders, sync, whole
from embedseg_large.runs import journal
from embedseg_large.storage.disk import LocalFolder
from embedseg_large.testing.oracle import OracleNetwork


@dataclass
class Disk:
    """What this process asks of the disk, in its order, and what a loss of power would leave."""

    calls: list[tuple[str, str]] = field(default_factory=list)
    named: dict[str, str] = field(default_factory=dict)
    """Files that got their name, and what they were called when they were synced last."""
    written: set[str] = field(default_factory=set)
    """Files whose content is on the disk."""
    kept: set[str] = field(default_factory=set)
    """Of these, files whose name is there, too."""

    def sync(self, path: str) -> None:
        self.calls.append(("sync", path))
        if Path(path).is_dir():
            self.kept |= {f for f in self.named if str(Path(f).parent) == path} & self.written
        else:
            self.written.add(path)

    def name(self, begun: str, file: str) -> None:
        self.calls.append(("name", file))
        self.named[file] = begun
        if begun in self.written:
            self.written.add(file)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    found, fsync, replace = Disk(), os.fsync, os.replace

    def synced(handle: int) -> None:
        found.sync(str(Path(f"/proc/self/fd/{handle}").readlink()))
        fsync(handle)

    def replaced(begun: str | Path, file: str | Path) -> None:
        replace(begun, file)
        found.name(str(begun), str(file))

    if not Path("/proc/self/fd").exists():
        pytest.skip("this system does not say which file is open")
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    return found


def test_a_durable_file_is_synced_then_named_then_its_folder_is_synced(
    tmp_path: Path, disk: Disk
) -> None:
    LocalFolder(str(tmp_path)).write("a/b", b"data", durable=True)
    folder = tmp_path / "a"
    kinds = [(kind, Path(path).parent == folder) for kind, path in disk.calls]
    assert kinds == [("sync", False), ("sync", True), ("name", True), ("sync", False)]
    assert [path for _, path in disk.calls[::2]] == [str(tmp_path), str(folder / "b")]
    assert disk.calls[3] == ("sync", str(folder))
    assert (folder / "b").read_bytes() == b"data"


def test_other_files_are_whole_and_cost_no_sync(tmp_path: Path, disk: Disk) -> None:
    LocalFolder(str(tmp_path)).write("a", b"data")
    assert disk.calls == [("name", str(tmp_path / "a"))]


def test_what_fails_half_way_leaves_the_older_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"older")
    with pytest.raises(ZeroDivisionError), whole(file, durable=True) as begun:
        begun.write_bytes(b"ne" + bytes([1 // 0]))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert file.read_bytes() == b"older"


def test_folders_are_made_as_deep_as_need_be_and_made_once(tmp_path: Path, disk: Disk) -> None:
    for _ in range(2):
        make_folders(tmp_path / "a" / "b", durable=True)
    assert disk.calls == [("sync", str(tmp_path)), ("sync", str(tmp_path / "a"))]
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make_folders(tmp_path / "file")
    sync(tmp_path)


def test_what_a_journal_says_is_done_outlasts_a_loss_of_power(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever a file of the journal gets its name, all files of tasks before it are kept."""
    monkeypatch.setattr(journal, "FLUSH_SECONDS", 0.0)
    labels = np.zeros((48, 48), np.uint16)
    labels[4:14, 4:14], labels[20:30, 18:30], labels[36:45, 30:44] = 1, 2, 3
    noted: list[str] = []
    name = Disk.name

    def named(self: Disk, begun: str, file: str) -> None:
        if "/journal/" in file:
            noted.append(file)
            tasks = [f for f in self.named if "/.nuclei-" in f or ".run/" in f]
            lost = {f for f in tasks if Path(f).exists()} - self.kept
            assert not lost, (file, lost)
        name(self, begun, file)

    monkeypatch.setattr(Disk, "name", named)
    out = tmp_path / "out.zarr"
    options: dict[str, Any] = {
        "output": out,
        "intensity_range": (0, 1),
        "cluster_tile": (24, 24),
        "halo": (12, 12),
    }
    es.segment(labels, OracleNetwork.of(labels), **options)
    assert len(noted) > 6
    folder = str(out / "labels")
    published = max(i for i, call in enumerate(disk.calls) if call == ("sync", folder))
    assert ("name", f"{folder}/zarr.json") in disk.calls[:published]
    documents = [c for c in disk.calls if c[0] == "name" and c[1].endswith("/zarr.json")]
    assert {path for _, path in documents} <= disk.kept


@pytest.mark.parametrize("text", ["s3://bucket/x", "file:///tmp/x", "HTTPS://a.b/c", "az://c"])
def test_a_url_is_one_also_after_pathlib_has_taken_a_slash(text: str) -> None:
    assert is_url(text)
    assert is_url(Path(text))


@pytest.mark.parametrize("text", ["x.tif", "/tmp/s3:/x", "C:/x", "a:b/c", "a/s3://b", "", "."])
def test_a_path_is_no_url(text: str) -> None:
    assert not is_url(text)
