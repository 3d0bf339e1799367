"""The duration of each tile, from the log of a run (`segment --log FILE`)."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from embedseg_large.errors import UsageError, foreign

_LONGEST = 1 << 24
"""Characters of a line that are read at once."""
Column = tuple[int, int]
"""Position of tiles along y and x, for any z."""


def read_times(
    path: str | os.PathLike[str], made: Mapping[str, Any], timepoint: int, stage: str = "predict"
) -> dict[Column, float]:
    """Add up the seconds that tiles took, over z.

    Parameters
    ----------
    path
        A log, which may also contain other runs.
    made
        The record of the run, whose token identifies it in the log.
    timepoint
        Timepoint of a series; others are ignored.
    stage
        The stage of the tiles.

    Raises
    ------
    UsageError
        If it cannot be read, or does not contain that run.
    """
    runs: set[Any] = set()
    seconds: dict[Column, float] = defaultdict(float)
    with foreign(path, "no log of runs", todo="give the file of --log", kind=UsageError):
        for line in _lines(Path(path)):
            if line.get("event") == "run begins" and line.get("token") == made.get("token"):
                runs.add(str(line.get("run")))
            elif _counts(line, runs, stage, timepoint):
                y, x = line["tile"][-2:]
                seconds[int(y), int(x)] += float(line["seconds"])
    if not runs:
        raise UsageError(f"{path}: it does not contain the run that made these labels")
    return dict(seconds)


def _counts(line: Mapping[str, Any], runs: set[Any], stage: str, timepoint: int) -> bool:
    """Whether a line reports a finished tile of the stage."""
    is_task = line.get("event") == "task done" and str(line.get("run")) in runs
    is_then = line.get("section", "") in ("", f"t{timepoint:05d}")
    return is_task and line.get("stage") == stage and bool(line.get("tile")) and is_then


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines that are JSON; a killed run may have left an incomplete one."""
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"{path}: the log cannot be read (no file); pass the file of --log")
        with path.open(encoding="utf-8", errors="replace") as file:
            for text in iter(partial(file.readline, _LONGEST), ""):
                try:
                    line = json.loads(text)
                except (ValueError, RecursionError):
                    continue
                if isinstance(line, dict):
                    yield line
    except OSError as error:
        raise UsageError(f"{path}: the log cannot be read ({error.strerror})") from error
