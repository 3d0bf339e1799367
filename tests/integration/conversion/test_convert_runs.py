"""A conversion that is stopped goes on with the same call, and nothing half-written is seen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from embedseg_large.cli.app import app
from embedseg_large.conversion.convert import convert
from embedseg_large.conversion.plan import Conversion
from embedseg_large.errors import UsageError
from embedseg_large.volumes.multiscale import MultiscaleStore
from embedseg_large.volumes.volume import open_volume

IMAGE = np.random.default_rng(0).integers(0, 4000, (6, 600, 520), dtype=np.uint16)
OPTIONS: dict[str, Any] = {"pattern": "z{z}.tif", "chunks": (3, 64, 64)}

VICTIM = """
import os, signal, sys
from embedseg_large.runs import journal
from embedseg_large.conversion.convert import convert
from embedseg_large.conversion import plan as parts
from embedseg_large.volumes import multiscale

class Killer:
    def __init__(self):
        self.left = {stage!r}, {tasks}
    def begin(self, stage, tiles): pass
    def advance(self, stage):
        if stage == self.left[0]:
            self.left = stage, self.left[1] - 1
            if self.left[1] == 0:
                os.kill(os.getpid(), signal.{signal})

journal.FLUSH_SECONDS = 0.0
parts._COPY_BYTES = 1
multiscale._REGION = {{3: 128}}
convert({source!r}, {out!r}, watcher=Killer(), **{options!r})
"""


class Counter:
    """Counts tasks that an attempt has done itself."""

    def __init__(self) -> None:
        self.done: dict[str, int] = {}

    def begin(self, stage: str, tiles: int) -> None: ...

    def advance(self, stage: str) -> None:
        self.done[stage] = self.done.get(stage, 0) + 1


@pytest.fixture(autouse=True)
def _small_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedseg_large.conversion.plan._COPY_BYTES", 1)
    monkeypatch.setattr("embedseg_large.volumes.multiscale._REGION", {3: 128})


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    (tmp_path / "scan").mkdir()
    for z, plane in enumerate(IMAGE):
        tifffile.imwrite(tmp_path / "scan" / f"z{z}.tif", plane)
    return tmp_path / "scan"


def stored(out: Path) -> dict[str, bytes]:
    files = (p for p in out.rglob("*") if p.is_file())
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in files}


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def stop(source: Path, out: Path, stage: str, how: str = "SIGKILL", tasks: int = 3) -> int:
    """Convert in a process that a signal stops in a stage."""
    about = {"source": str(source), "out": str(out), "options": OPTIONS}
    code = VICTIM.format(stage=stage, tasks=tasks, signal=how, **about)
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    return died.returncode


@pytest.mark.parametrize("stage", ["copy", "average"])
def test_a_killed_conversion_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, scan: Path, stage: str
) -> None:
    convert(scan, tmp_path / "whole.zarr", **OPTIONS)
    before, out = stored(tmp_path / "whole.zarr"), tmp_path / "killed.zarr"
    (tmp_path / "whole.zarr").rename(tmp_path / "other")
    assert stop(scan, out, stage) == -signal.SIGKILL
    assert not out.exists()
    half = next(tmp_path.glob(".killed.zarr.conversion/image-*")) / "0" / f"0.{'ab' * 16}.partial"
    half.write_bytes(b"half a file")
    folder = half.parents[2]
    noted = sum(p.read_text().count("\n") for p in (folder / "journal").iterdir())
    assert noted >= 2
    convert(scan, out, **OPTIONS)
    after = stored(out)
    assert {k: v for k, v in after.items() if k != "zarr.json"} == {
        k: v for k, v in before.items() if k != "zarr.json"
    }
    assert names(tmp_path) == {"scan", "other", "killed.zarr"}
    np.testing.assert_array_equal(open_volume(out).data.compute(), IMAGE)


def test_what_is_done_is_not_done_again(tmp_path: Path, scan: Path) -> None:
    assert stop(scan, tmp_path / "a.zarr", "average") == -signal.SIGKILL
    for file in scan.iterdir():  # other voxels, but nobody can tell without reading them
        about = file.stat()
        tifffile.imwrite(file, np.zeros_like(IMAGE[0]))
        assert file.stat().st_size == about.st_size
        os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    convert(scan, tmp_path / "a.zarr", **OPTIONS)
    np.testing.assert_array_equal(open_volume(tmp_path / "a.zarr").data.compute(), IMAGE)


def test_an_interrupted_conversion_keeps_what_it_has(tmp_path: Path, scan: Path) -> None:
    assert stop(scan, tmp_path / "a.zarr", "copy", "SIGINT") != 0
    assert names(tmp_path) == {"scan", ".a.zarr.conversion"}
    convert(scan, tmp_path / "a.zarr", **OPTIONS)
    np.testing.assert_array_equal(open_volume(tmp_path / "a.zarr").data.compute(), IMAGE)
    assert names(tmp_path) == {"scan", "a.zarr"}


def test_a_changed_source_or_setting_is_named_and_overwrite_begins_anew(
    tmp_path: Path, scan: Path
) -> None:
    out = tmp_path / "a.zarr"
    stop(scan, out, "copy")
    with pytest.raises(UsageError, match=r"had ngff_version \"0\.5\" \(now \"0\.4\"\)"):
        convert(scan, out, ngff_version="0.4", **OPTIONS)
    tifffile.imwrite(scan / "z2.tif", IMAGE[3])
    with pytest.raises(UsageError, match="content of the source"):
        convert(scan, out, **OPTIONS)
    convert(scan, out, overwrite=True, **OPTIONS)
    found = open_volume(out).data.compute()
    np.testing.assert_array_equal(found[2], IMAGE[3])
    assert names(tmp_path) == {"scan", "a.zarr"}


def test_regions_cut_in_another_way_are_not_gone_on_with(
    tmp_path: Path, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their numbers, which are what is noted, mean other voxels: some would never be copied."""
    stop(scan, tmp_path / "a.zarr", "copy")
    monkeypatch.setattr("embedseg_large.conversion.plan._COPY_BYTES", 2**28)
    with pytest.raises(UsageError, match="had regions"):
        convert(scan, tmp_path / "a.zarr", **OPTIONS)


def test_a_source_that_changes_in_its_bucket_is_refused(
    tmp_path: Path, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Counter):
        def advance(self, stage: str) -> None:
            super().advance(stage)
            if self.done[stage] == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr("embedseg_large.volumes.stored_array.StoredArray.digest", "as it was")
    with pytest.raises(KeyboardInterrupt):
        convert(scan, tmp_path / "a.zarr", watcher=Stop(), **OPTIONS)
    monkeypatch.setattr("embedseg_large.volumes.stored_array.StoredArray.digest", "as it is")
    with pytest.raises(UsageError, match=r'content of the source "as it was" \(now "as it is"\)'):
        convert(scan, tmp_path / "a.zarr", **OPTIONS)


def test_a_source_that_changes_meanwhile_is_not_published(tmp_path: Path, scan: Path) -> None:
    class Meddler(Counter):
        def advance(self, stage: str) -> None:
            os.utime(scan / "z0.tif", ns=(1, len(self.done) + 1))
            super().advance(stage)

    with pytest.raises(UsageError, match="changed while it was converted"):
        convert(scan, tmp_path / "a.zarr", watcher=Meddler(), **OPTIONS)
    assert not (tmp_path / "a.zarr").exists()


def test_an_older_image_stays_until_the_new_one_is_whole(tmp_path: Path, scan: Path) -> None:
    out = tmp_path / "a.zarr"
    convert(IMAGE[:2], out)
    assert stop(scan, out, "copy") not in (0, -signal.SIGKILL)  # exists: refused
    OPTIONS["overwrite"] = True
    try:
        assert stop(scan, out, "average") == -signal.SIGKILL
        assert open_volume(out).shape == (2, 600, 520)
        counter = Counter()
        convert(scan, out, watcher=counter, **OPTIONS)
    finally:
        del OPTIONS["overwrite"]
    assert open_volume(out).shape == IMAGE.shape
    assert names(tmp_path) == {"scan", "a.zarr"}


def test_an_older_image_survives_a_kill_between_the_renames(tmp_path: Path, scan: Path) -> None:
    class Stop(Counter):
        def advance(self, stage: str) -> None:
            super().advance(stage)
            raise KeyboardInterrupt

    out = tmp_path / "a.zarr"
    assert stop(scan, out, "average") == -signal.SIGKILL
    begun = next(tmp_path.glob(".a.zarr.conversion/image-*"))
    convert(IMAGE[:2], tmp_path / "older.zarr")
    (tmp_path / "older.zarr").rename(begun.with_name(f"{begun.name}.old"))
    with pytest.raises(KeyboardInterrupt):
        convert(scan, out, ngff_version="0.4", overwrite=True, watcher=Stop(), **OPTIONS)
    assert open_volume(out).shape == (2, 600, 520)


def test_a_conversion_killed_after_its_publication_is_finished_by_the_same_command(
    tmp_path: Path, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, publish = tmp_path / "a.zarr", Conversion.publish

    def published(plan: Conversion, store: MultiscaleStore) -> None:
        publish(plan, store)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Conversion, "publish", published)
        with pytest.raises(KeyboardInterrupt):
            convert(scan, out, **OPTIONS)
    before = stored(out)
    assert names(tmp_path) == {"scan", "a.zarr", ".a.zarr.conversion"}
    with pytest.raises(UsageError, match=r'unfinished conversion had ngff_version "0\.5"'):
        convert(scan, out, ngff_version="0.4", **OPTIONS)
    counter = Counter()
    convert(scan, out, watcher=counter, **OPTIONS)
    assert counter.done == {}
    assert stored(out) == before
    assert names(tmp_path) == {"scan", "a.zarr"}
    with pytest.raises(UsageError, match="exists; choose another path"):
        convert(scan, out, **OPTIONS)


def test_a_second_conversion_to_the_same_place_is_refused(tmp_path: Path, scan: Path) -> None:
    class Second(Counter):
        error = ""

        def advance(self, stage: str) -> None:
            super().advance(stage)
            if not self.error:
                with pytest.raises(UsageError, match="another run") as caught:
                    convert(scan, tmp_path / "a.zarr", **OPTIONS)
                self.error = str(caught.value)

    second = Second()
    convert(scan, tmp_path / "a.zarr", watcher=second, **OPTIONS)
    assert "is writing there" in second.error


def test_workers_write_the_same_bytes(
    tmp_path: Path, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # workers have regions of the usual size
    command = ["convert", str(scan), "--stack", "z", "--chunks", "3,64,64", "--json"]
    for name, more in (("here", []), ("there", ["--workers", "2"])):
        out = tmp_path / name / "a.ome.zarr"
        out.parent.mkdir()
        result = CliRunner().invoke(app, [*command, str(out), *more])
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["shape"] == list(IMAGE.shape)
        assert names(out.parent) == {"a.ome.zarr"}
    here, there = (stored(tmp_path / name / "a.ome.zarr") for name in ("here", "there"))
    assert here == there


def test_voxels_in_memory_are_not_for_workers(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="this process's memory"):
        convert(IMAGE, tmp_path / "a.zarr", workers=2)
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scan"], "pass the axis"),
        (["scan", "--pattern", "q{z}.tif"], "no file matches"),
        (["scan", "--stack", "x"], "use t, c or z"),
        (["scan/z0.tif", "--stack", "z"], "apply to a folder of files"),
        (["absent"], "there is no such file or folder"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, scan: Path, arguments: list[str], message: str
) -> None:
    source, *more = arguments
    out = str(tmp_path / "a.zarr")
    result = CliRunner().invoke(app, ["convert", str(scan.parent / source), out, *more])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
