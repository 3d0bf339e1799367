"""Locations of the masks, table, sheet and records of a batch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embedseg_large.batch.images import BatchImage, OpenedImage, Source
from embedseg_large.batch.ledger import BatchLedger
from embedseg_large.batch.masks import ENDINGS
from embedseg_large.batch.options import MaskFormat
from embedseg_large.errors import PlaceError, UsageError
from embedseg_large.files import is_url
from embedseg_large.storage.connection import is_remote
from embedseg_large.storage.disk import check_writable
from embedseg_large.storage.group import DOCUMENTS
from embedseg_large.volumes.folders import is_path, stem
from embedseg_large.volumes.multiscale import ZARR_FORMATS

TABLE, SHEET = "images.csv", "contact_sheet.jpg"


@dataclass(frozen=True, slots=True)
class BatchPlace:
    """Locations of masks, table, sheet and records."""

    source: Source
    given: str | os.PathLike[str] | None
    labels: str
    mask_format: MaskFormat

    @property
    def is_in_stores(self) -> bool:
        """Whether labels go into the images' own stores."""
        return self.given is None

    @property
    def out(self) -> Path:
        """Folder of the table, the sheet and the records."""
        if self.given is not None:
            if is_url(self.given):
                raise UsageError(
                    f"{self.given}: masks are written to a folder of this machine, not to a URL"
                )
            return Path(self.given).absolute()
        if not is_path(self.source) or is_remote(os.fspath(self.source)):
            raise UsageError("choose a folder for the masks and the table with --out")
        path = Path(self.source).absolute()
        return path.with_name(f"{stem(path)}-{self.labels}")

    @property
    def ledger(self) -> BatchLedger:
        """The records."""
        return BatchLedger(self.out)

    def mask(self, image: BatchImage) -> Path:
        """Return the path of an image's (future) mask."""
        if self.is_in_stores:
            return Path(image.path, "labels", self.labels)
        return self.out / f"{image.name}{ENDINGS[self.mask_format]}"


def check_place(opened: Sequence[OpenedImage], place: BatchPlace) -> None:
    """Refuse an output that cannot hold the masks, holds the images, or holds other results."""
    _check_folder(place)
    if place.is_in_stores:
        for one in opened:
            if one.volume is not None and one.volume.ngff_version not in ZARR_FORMATS:
                raise UsageError(
                    f"{one.volume.name} cannot hold labels: only OME-Zarr 0.4, 0.5 "
                    "and 0.6 can; choose a folder for the masks with --out"
                )
    elif place.out.resolve() in {Path(one.image.path).resolve().parent for one in opened}:
        raise UsageError(
            f"{place.out}: this folder holds the images: the masks would replace the images, or "
            "be taken for images later; choose another folder with --out"
        )
    _check_results(place)
    check_writable(place.out)


def _check_folder(place: BatchPlace) -> None:
    if place.given is not None and not os.fspath(place.given):
        raise UsageError("the folder for the masks has no name; choose one with --out")
    if place.out.exists() and not place.out.is_dir():
        raise PlaceError(f"{place.out}: this is a file; choose a folder for the masks with --out")
    if place.out.suffix in (".tif", ".tiff", ".zarr", ".png") and not place.out.exists():
        raise UsageError(f"{place.out}: choose a folder for the masks, not an image")
    stores = (
        p for p in (place.out, *place.out.parents) if any((p / n).exists() for n in DOCUMENTS)
    )
    if (store := next(stores, None)) is not None:
        todo = "choose a folder elsewhere with --out"
        if place.is_in_stores:
            todo = f"{todo}, or pass the plate and choose --wells"
        raise UsageError(f"{place.out} is inside the zarr store {store}; {todo}")


def _check_results(place: BatchPlace) -> None:
    """Refuse to replace a table or a sheet in a folder without records of a batch."""
    if place.ledger.folder.exists():
        return
    for path in (place.out / TABLE, place.out / SHEET):
        if path.exists():
            raise UsageError(
                f"{path} exists, and was not written by this command; choose another folder with "
                "--out, or rename it"
            )
