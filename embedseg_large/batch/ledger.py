"""What a batch has finished: one record for each image, beside the masks.

::

    OUT/.embedseg-large/NAME.json    of what image and settings the mask is, and what it holds
    OUT/.embedseg-large/NAME.png     its picture, for the contact sheet
    OUT/.embedseg-large/work/        masks that are not finished

A record is written after the mask. A mask without a record is somebody else's; so is one that was
written again since.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedseg_large.documents import difference, parse_json, read_document
from embedseg_large.errors import EmbedSegError
from embedseg_large.labels.published import provenance_of
from embedseg_large.runs.facts import Facts
from embedseg_large.storage.disk import output_errors, whole_file
from embedseg_large.volumes.volume import open_volume

FOLDER = ".embedseg-large"

State = Literal["todo", "finished", "other", "foreign"]
"""Of an image: not segmented; segmented, and nothing has changed; segmented otherwise, or of an
image that has changed; or there is a mask that this batch did not write."""


@dataclass(frozen=True, slots=True)
class BatchLedger:
    """The records in an output folder."""

    out: Path

    @property
    def folder(self) -> Path:
        """Where they are."""
        return self.out / FOLDER

    @property
    def work(self) -> Path:
        """Where unfinished masks are."""
        return self.folder / "work"

    def read(self, name: str) -> dict[str, Any]:
        """The record of an image; empty where there is none, or none that can be read."""
        try:
            record = parse_json(read_document(self._file(name, "json")))
        except (FileNotFoundError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def state(self, name: str, mask: Path, facts: Facts) -> tuple[State, str]:
        """What is known of an image.

        Parameters
        ----------
        name, mask
            The image, and where its mask is or will be.
        facts
            All that decides the mask.

        Returns
        -------
        state, difference
            The latter in words, of a mask that was made otherwise.
        """
        if not mask.exists():
            return "todo", ""
        record = self.read(name)
        try:
            written = stamp(mask)
        except EmbedSegError:  # a folder that is no image
            written = []
        if not record or record.get("mask") != written:
            return "foreign", ""
        different = difference(record.get("facts", {}), facts)
        return ("other", different) if different else ("finished", "")

    def write(
        self,
        name: str,
        mask: Path,
        facts: Facts,
        about: Mapping[str, Any],
        picture: NDArray[np.uint8],
    ) -> None:
        """Record a finished mask.

        Raises
        ------
        OutputError
            If that cannot be written.
        """
        with output_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        from imagecodecs import png_encode

        with whole_file(self._file(name, "png")) as begun:
            begun.write_bytes(png_encode(picture))
        record = {"facts": facts, "mask": stamp(mask), **about}
        with whole_file(self._file(name, "json")) as begun:
            begun.write_text(json.dumps(record, indent=1), encoding="utf-8")

    def picture(self, name: str) -> NDArray[np.uint8] | None:
        """The picture of an image; None where there is none that can be used."""
        from imagecodecs import png_decode

        try:
            found = np.asarray(png_decode(self._file(name, "png").read_bytes()))
        except (OSError, ValueError, RuntimeError):
            return None
        usable = found.dtype == np.uint8 and found.ndim == 3 and found.shape[-1] == 3
        return found if usable else None

    def _file(self, name: str, ending: str) -> Path:
        return self.folder / f"{name}.{ending}"


def stamp(mask: Path) -> list[Any]:
    """What changes when a mask is written again, or painted in; tables beside it change nothing."""
    if not mask.is_dir():
        about = mask.stat()
        return [about.st_size, about.st_mtime_ns]
    stored = open_volume(mask, channel=None).storage
    made = provenance_of(str(mask))
    return [made.get("token"), stored.stamp(tuple(slice(None) for _ in stored.shape))]
