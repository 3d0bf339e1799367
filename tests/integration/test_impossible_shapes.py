"""Metadata may claim more work than any machine can do: one line, before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
import zarr
from typer.testing import CliRunner

from embedseg_large.cli.app import app
from embedseg_large.volumes.volume import open_volume


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """Some bytes of metadata that claim 10¹² planes."""
    place = tmp_path / "endless.zarr"
    array = zarr.create_array(
        place, shape=(10**12, 64, 64), chunks=(64, 64, 64), dtype="u2", dimension_names="zyx"
    )
    array[:8, :8, :8] = 1
    return place


@pytest.mark.parametrize(
    "command",
    [
        ("measure", "STORE", "--out", "t.csv"),
        ("evaluate", "STORE", "STORE"),
        ("convert", "STORE", "out.zarr"),
        ("export-labels", "STORE", "out.tif"),
        ("export-labels", "STORE", "out.stl"),
        ("segment", "STORE", "--output", "out.zarr", "--tta", "none"),
        ("segment", "STORE", "--output", "o.zarr", "--model=classical", "--object-diameter=9"),
        ("segment", "STORE", "--output", "out.zarr", "--region", "0:8,0:8,0:8"),
    ],
    ids=" ".join,
)
def test_a_claim_of_more_work_than_possible_is_one_line_before_any(
    endless: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(endless.parent)
    result = CliRunner().invoke(app, [str(endless) if w == "STORE" else w for w in command])
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert (result.exit_code, len(lines)) == (2, 1), result.stderr
    assert "check the shape with info" in lines[0] or "check its shape with info" in lines[0]
    assert [file.name for file in endless.parent.iterdir()] == ["endless.zarr"]


def test_what_has_more_files_than_can_be_asked_for_is_stamped_by_those_that_exist(
    endless: Path,
) -> None:
    volume = open_volume(endless)
    whole = (slice(None),) * 3
    before = volume.storage.stamp(whole)
    assert before == volume.storage.stamp(whole)
    chunk = next(file for file in (endless / "c").rglob("*") if file.is_file())
    chunk.write_bytes(chunk.read_bytes() + b"0")
    assert volume.storage.stamp(whole) != before
