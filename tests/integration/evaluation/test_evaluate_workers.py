"""`evaluate` on the workers of a cluster gives what it gives in one process."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

import embedseg_large as es
from embedseg_large.cli.app import app
from embedseg_large.conversion.plan import write_image
from embedseg_large.errors import CorruptChunkError, UsageError
from embedseg_large.runs import boxes
from embedseg_large.testing.synthetic import synthetic_embryo


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Predicted and true labels that differ, cut into several boxes."""
    truth = synthetic_embryo((40, 60, 60), n_objects=40, diameter=10, seed=1).astype(np.uint16)
    prediction = np.roll(truth, 2, axis=2)
    monkeypatch.setitem(boxes.EDGE, 3, 32)
    for name, labels in (("prediction", prediction), ("truth", truth)):
        write_image(tmp_path / name, labels, "zyx", ngff_version="0.4", chunks=(20, 30, 30))
    return tmp_path / "prediction" / "0", tmp_path / "truth" / "0"


@pytest.mark.parametrize("localisation", ["iou", "boundary"])
def test_scores_and_errors_are_the_same(
    files: tuple[Path, Path], tmp_path: Path, client: Any, localisation: Any
) -> None:
    tables = tmp_path / "here.csv", tmp_path / "there.csv"
    options: dict[str, Any] = {"axes": "zyx", "localisation": localisation}
    here = es.evaluate(*files, errors=tables[0], **options)
    there = es.evaluate(*files, errors=tables[1], client=client, **options)
    assert here == there
    assert {score.ap for score in here} > {1.0}
    rows = [list(csv.reader(table.read_text().splitlines())) for table in tables]
    assert len(rows[0]) > 40
    assert rows[0] == rows[1]


def test_the_command_starts_workers(files: tuple[Path, Path]) -> None:
    arguments = ["evaluate", *map(str, files), "--axes", "zyx", "--json"]
    here, there = (
        CliRunner().invoke(app, [*arguments, *more]) for more in ([], ["--workers", "1"])
    )
    assert there.exit_code == 0, there.output
    assert json.loads(here.stdout) == json.loads(there.stdout)


def test_a_chunk_that_cannot_be_decoded_is_named(files: tuple[Path, Path], client: Any) -> None:
    chunk = next(p for p in files[0].rglob("*") if p.is_file() and not p.name.startswith("."))
    chunk.write_bytes(b"garbage")
    with pytest.raises(CorruptChunkError, match=f"{chunk}.*cannot be decoded") as error:
        es.evaluate(*files, axes="zyx", client=client)
    assert "same command" not in str(error.value)


def test_arrays_in_memory_are_not_for_workers(client: Any, tmp_path: Path) -> None:
    labels = np.ones((4, 4, 4), np.uint8)
    tifffile.imwrite(tmp_path / "truth.tif", labels)
    with pytest.raises(UsageError, match="in this process's memory"):
        es.evaluate(labels, tmp_path / "truth.tif", axes="zyx", client=client)
