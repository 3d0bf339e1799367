"""What a batch has finished: one record for each image, beside the masks.

::

    OUT/.embedseg-large/NAME.json    image and settings of the mask, and its content
    OUT/.embedseg-large/NAME.png     its picture, for the contact sheet
    OUT/.embedseg-large/work/        masks that are not finished

A record is written after the mask. A mask without a record, or one that was rewritten since,
belongs to another program.
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
"""State of an image: not segmented; segmented and unchanged; segmented with other settings, or
changed since; or there is a mask that this batch did not write."""


@dataclass(frozen=True, slots=True)
class BatchLedger:
    """The records in an output folder."""

    out: Path

    @property
    def folder(self) -> Path:
        """Folder of the records."""
        return self.out / FOLDER

    @property
    def work(self) -> Path:
        """Folder of unfinished masks."""
        return self.folder / "work"

    def read(self, name: str) -> dict[str, Any]:
        """Return the record of an image; empty if there is none, or it cannot be read."""
        try:
            record = parse_json(read_document(self._file(name, "json")))
        except (FileNotFoundError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def names(self) -> list[str]:
        """List the images with a record, sorted."""
        files = self.folder.glob("[!.]*.json")
        return sorted(path.name.removesuffix(".json") for path in files)

    def state(self, name: str, mask: Path, facts: Facts) -> tuple[State, str]:
        """Determine the state of an image.

        Parameters
        ----------
        name, mask
            The image, and the path of its (future) mask.
        facts
            Everything that determines the mask.

        Returns
        -------
        state, difference
            The state; and in words, how a mask with other settings differs.
        """
        if not mask.exists():
            return "todo", ""
        record = self.read(name)
        try:
            written = stamp(mask)
        except EmbedSegError:  # a folder that is not an image
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
        """Return the picture of an image; None if there is none, or it is unusable."""
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
    """Return what changes when a mask is rewritten or edited, but not with tables beside it."""
    if not mask.is_dir():
        about = mask.stat()
        return [about.st_size, about.st_mtime_ns]
    stored = open_volume(mask, channel=None).storage
    made = provenance_of(str(mask))
    return [made.get("token"), stored.stamp(tuple(slice(None) for _ in stored.shape))]
