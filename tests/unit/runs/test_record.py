"""The record of a run, and what becomes of a folder whose record or journal is damaged."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from embedseg_large.errors import RunError, UsageError
from embedseg_large.runs import lock as locks
from embedseg_large.runs.record import (
    RUN_FILE,
    RunRecord,
    name_of_run,
    read_record,
    write_record,
)
from embedseg_large.runs.run_folder import Run, RunPlace, open_run
from embedseg_large.storage.open import folder_at

RECORD = RunRecord(
    name="0123456789abcdef",
    labels="/data/x.zarr/labels/nuclei",
    overwrite=False,
    token="t",
    facts={"settings": {"seed": 0.9}},
)
FULL = replace(RECORD, tasks={"predict": 8}, pending="/data/x.zarr/labels/.nuclei-12", shards=3)


def place(tmp_path: Path, *, overwrite: bool = False) -> RunPlace:
    return RunPlace(
        folder=folder_at(tmp_path / "x.run"),
        lock=folder_at(tmp_path / "x.lock"),
        overwrite=overwrite,
    )


def interrupted(where: RunPlace, record: RunRecord = RECORD) -> None:
    """A run that has done a task and then failed."""
    with suppress(ZeroDivisionError), open_run(where, record) as run:
        run.journal.note("predict", 3, (7, None))
        run.journal.flush()
        raise ZeroDivisionError


@pytest.mark.parametrize("record", [RECORD, FULL], ids=["begun", "finishing"])
def test_a_record_that_is_read_is_the_one_that_was_written(
    tmp_path: Path, record: RunRecord
) -> None:
    write_record(folder_at(tmp_path), record)
    assert read_record(folder_at(tmp_path)) == record
    assert name_of_run(folder_at(tmp_path)) == record.name


def test_the_file_of_a_record_is_as_it_always_was(tmp_path: Path) -> None:
    write_record(folder_at(tmp_path), FULL)
    about = {
        "name": "0123456789abcdef",
        "labels": "/data/x.zarr/labels/nuclei",
        "overwrite": False,
        "token": "t",
        "facts": {"settings": {"seed": 0.9}},
        "tasks": {"predict": 8},
        "pending": "/data/x.zarr/labels/.nuclei-12",
        "shards": 3,
    }
    assert (tmp_path / RUN_FILE).read_text() == json.dumps(about, indent=1)


def test_where_there_is_no_run_there_is_no_record(tmp_path: Path) -> None:
    assert read_record(folder_at(tmp_path / "none")) is None
    assert name_of_run(folder_at(tmp_path / "none")) is None


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b"[1]",
        b"{}",
        b'{"name": 1, "overwrite": false, "facts": {}}',
        b'{"name": "a", "facts": {}}',
        b'{"name": "a", "overwrite": 1, "facts": {}}',
        b'{"name": "a", "overwrite": true, "facts": []}',
        b'{"name": "a", "overwrite": true, "facts": {}, "shards": "many"}',
        b'{"name": "a", "overwrite": true, "facts": {}, "tasks": {"predict": "all"}}',
    ],
)
def test_a_damaged_record_is_one_line_with_a_way_out(tmp_path: Path, damaged: bytes) -> None:
    where = place(tmp_path)
    where.folder.write(RUN_FILE, damaged)
    with pytest.raises(UsageError, match=r"not the record of a run .*--overwrite.*remove") as error:
        read_record(where.folder)
    assert "\n" not in str(error.value)
    assert name_of_run(where.folder) is None
    with pytest.raises(UsageError, match="not the record"), open_run(where, RECORD):
        pass
    with open_run(replace(where, overwrite=True), RECORD) as run:
        assert not run.resumed
    assert not (tmp_path / "x.run").exists()


def test_a_folder_in_place_of_the_record_is_a_damaged_record(tmp_path: Path) -> None:
    where = place(tmp_path)
    (tmp_path / "x.run" / RUN_FILE).mkdir(parents=True)
    with pytest.raises(UsageError, match=r"not the record of a run .*--overwrite.*remove"):
        read_record(where.folder)
    with open_run(replace(where, overwrite=True), RECORD) as run:
        assert not run.resumed
    assert not (tmp_path / "x.run").exists()


def test_the_same_command_resumes_a_run(tmp_path: Path) -> None:
    interrupted(place(tmp_path))
    with open_run(place(tmp_path), replace(RECORD, name="another")) as run:
        assert run.resumed
        assert run.name == RECORD.name
        assert run.journal.find("predict", 3) == (7, None)
    assert list(tmp_path.iterdir()) == []


def test_another_command_is_refused_and_named(tmp_path: Path) -> None:
    interrupted(place(tmp_path))
    other = replace(RECORD, name="other", facts={"settings": {"seed": 0.8}})
    refused = pytest.raises(UsageError, match=r"seed 0\.9 \(now 0\.8\).*--overwrite")
    with refused, open_run(place(tmp_path), other):
        pass
    given_up: list[RunRecord] = []
    where = replace(place(tmp_path, overwrite=True), discard=given_up.append)
    with open_run(where, other) as run:
        assert not run.resumed
        assert not run.journal.counts
    assert given_up == [RECORD]


@pytest.mark.parametrize(
    "damaged",
    [b"{", b'["a", "b", "c"]\n', b'["a", -1, 2]\n', b'["a", 1, 9999999999]\n', b"\xff", b"7\n"],
)
def test_a_damaged_journal_is_one_line_and_overwriting_starts_over(
    tmp_path: Path, damaged: bytes
) -> None:
    begun = replace(RECORD, overwrite=True)
    interrupted(place(tmp_path, overwrite=True), begun)
    next((tmp_path / "x.run" / "journal").iterdir()).write_bytes(damaged)
    with pytest.raises(RunError, match="not a journal") as error, open_run(place(tmp_path), begun):
        pass
    assert "\n" not in str(error.value)
    with open_run(place(tmp_path, overwrite=True), begun) as run:
        assert not run.resumed
        assert not run.journal.counts


def test_notes_without_a_record_belong_to_no_run(tmp_path: Path) -> None:
    interrupted(place(tmp_path))
    (tmp_path / "x.run" / RUN_FILE).unlink()
    with open_run(place(tmp_path), RECORD) as run:
        assert not run.journal.counts
        assert list(run.folder.names()) == [RUN_FILE]


def usurped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> Run:
    """A run that slept while another took it over, and has not noticed yet."""
    monkeypatch.setattr(locks, "BEAT_SECONDS", 3600.0)
    sleeper = open_run(place(tmp_path), RECORD)
    run = sleeper.__enter__()
    run.journal.note("predict", 1, (5, None))
    usurper = folder_at(tmp_path / "x.lock")
    if how == "at work":
        usurper.create("000002", b"{}")
    else:
        usurper.remove_all()
        run.folder.remove_all()
    return run


@pytest.mark.parametrize("how", ["at work", "finished"])
def test_a_run_that_slept_while_another_took_over_writes_nothing_when_it_wakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    run = usurped(tmp_path, monkeypatch, how)
    before = contents(tmp_path)
    for write in (run.journal.flush, run.check, lambda: run.update(shards=3)):
        with pytest.raises(RunError, match="another run has taken over"):
            write()
    assert contents(tmp_path) == before
    if how == "finished":
        with pytest.raises(RunError, match="is gone"):
            run.folder.below("views").write("0", b"of a late task")
        assert contents(tmp_path) == {}


def test_what_goes_wrong_for_a_run_that_was_taken_over_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "BEAT_SECONDS", 3600.0)
    taken = pytest.raises(RunError, match="another run has taken over")
    with taken as caught, open_run(place(tmp_path), RECORD) as run:
        folder_at(tmp_path / "x.lock").create("000002", b"{}")
        run.folder.remove_all()
        run.folder.read("views/0")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(FileNotFoundError), open_run(place(tmp_path / "b"), RECORD) as run:
        run.folder.read("views/0")


def contents(folder: Path) -> dict[str, Any]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
