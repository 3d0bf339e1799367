"""The folder of a comparison: finished results are kept, and the same command resumes from there.

::

    compare.html                the page
    compare.csv, compare.json   the numbers
    compare.comparison/
        comparison.json         the request; a different comparison is refused
        flows-0.safetensors     a model, and flows-0.safetensors.training/
        flows-0.clock.json      its number of steps, and the time so far
        flows-0.json            its scores, written last
        flows-0.npz             its labels of the image that is drawn
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.comparison.result import Trial
from embedseg_large.documents import difference, parse_json
from embedseg_large.errors import OutputError, UsageError, foreign
from embedseg_large.storage.disk import check_file, whole_file

RECORD = "comparison.json"


@dataclass(frozen=True, slots=True)
class ComparisonPlace:
    """Location of a comparison."""

    page: Path

    @property
    def folder(self) -> Path:
        """Folder of models and intermediate results."""
        return self.page.with_suffix(".comparison")

    @property
    def csv(self) -> Path:
        """The table."""
        return self.page.with_suffix(".csv")

    @property
    def json(self) -> Path:
        """All numbers."""
        return self.page.with_suffix(".json")

    def check(self) -> None:
        """Refuse a page that cannot be written."""
        if self.page.suffix.lower() not in (".html", ".htm"):
            raise UsageError(f"{self.page}: the page is an HTML file; name it .html")
        for file in (self.page, self.csv, self.json):
            check_file(file)

    def begin(self, facts: Mapping[str, Any], *, overwrite: bool) -> None:
        """Start a comparison, or resume the same one.

        Raises
        ------
        UsageError
            If a different one is stored there.
        """
        if overwrite and (self.folder / RECORD).exists():
            shutil.rmtree(self.folder)
        record = self.folder / RECORD
        if record.exists():
            with foreign(record, "is not the record of a comparison", todo="pass --overwrite"):
                changed = difference(parse_json(record.read_bytes()), facts)
            if changed:
                raise UsageError(
                    f"{self.folder} is a comparison with {changed}; resume it with the "
                    "same options, choose another out, or pass --overwrite to start over"
                )
            return
        if self.folder.exists() and any(self.folder.iterdir()):
            raise UsageError(f"{self.folder} exists and is not a comparison; choose another out")
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be created ({error.strerror})") from error
        _write(record, facts)

    def trial(self, method: str, seed: int) -> Trial | None:
        """Read a finished training; None: it is not finished."""
        file = self.folder / f"{method}-{seed}.json"
        if not file.exists():
            return None
        with foreign(file, "is not the result of a training", todo=f"remove {file.name}"):
            return Trial.from_dict(parse_json(file.read_bytes()))

    def keep(self, trial: Trial, labels: NDArray[Any]) -> None:
        """Store the labels of the image that is drawn, then the result."""
        stem = f"{trial.method}-{trial.seed}"
        with whole_file(self.folder / f"{stem}.npz") as begun, begun.open("wb") as file:
            np.savez_compressed(file, labels=labels)
        _write(self.folder / f"{stem}.json", trial.as_dict())

    def labels(self, trial: Trial) -> NDArray[Any]:
        """Read the labels of the image that is drawn."""
        file = self.folder / f"{trial.method}-{trial.seed}.npz"
        with (
            foreign(file, "has no labels", todo=f"remove {file.with_suffix('.json').name}"),
            np.load(file, allow_pickle=False) as arrays,
        ):
            labels: NDArray[Any] = arrays["labels"]
        return labels


def _write(path: Path, values: Any) -> None:
    with whole_file(path) as begun:
        begun.write_text(json.dumps(values, indent=1) + "\n")
