"""Zarr groups as JSON documents, on a disk or in a bucket.

Documents are replaced as a whole, so a reader sees the old or the new one and never an incomplete
one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from embedseg_large.documents import MOST, parse_json
from embedseg_large.errors import MetadataError, RunError, UnreachableError, foreign
from embedseg_large.storage.failures import is_denied
from embedseg_large.storage.folder import Folder
from embedseg_large.storage.open import folder_at

Document = dict[str, Any]

DOCUMENTS = ("zarr.json", ".zattrs", ".zarray", ".zgroup")
"""Names of the documents of a group or an array; the one to be written last comes last."""


@dataclass(frozen=True, slots=True)
class ZarrGroup:
    """A zarr group, or a location for one."""

    folder: Folder

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> ZarrGroup:
        """Return the group at a path or URL; touches neither disk nor network."""
        return cls(folder_at(path))

    def below(self, name: str) -> ZarrGroup:
        """Return the member `name`."""
        return ZarrGroup(self.folder.below(name))

    def document(self, name: str) -> Document:
        """Read one of its documents; a missing one counts as empty.

        Raises
        ------
        MetadataError
            If it is not a JSON object.
        UnreachableError
            If it cannot be read.
        """
        try:
            data = self.folder.read(name, MOST)
        except FileNotFoundError:
            return {}
        return parse_document(data, f"{self.folder.path}/{name}")

    def zarr_format(self) -> int | None:
        """Return its zarr format (2 or 3); None if there is no group."""
        if self.document("zarr.json").get("node_type") == "group":
            return 3
        return 2 if self.folder.exists(".zgroup") else None

    def is_array(self) -> bool:
        """Whether there is an array instead of a group."""
        is_new = self.document("zarr.json").get("node_type") == "array"
        return is_new or self.folder.exists(".zarray")

    def attributes(self) -> Document:
        """Read its attributes; empty if there is no group."""
        denied = None
        for name in ("zarr.json", ".zattrs"):
            try:
                document = self.document(name)
            except UnreachableError as error:
                if not is_denied(error):
                    raise
                denied = error  # buckets without list permission refuse missing objects
                continue
            found = document.get("attributes", {}) if name == "zarr.json" else document
            if found and isinstance(found, dict):
                return dict(found)
        if denied is not None:
            raise denied
        return {}

    def write(self, zarr_format: int, attributes: Document, *, keep: bool = False) -> None:
        """Write the group with these attributes, replacing existing documents.

        Parameters
        ----------
        zarr_format
            2 or 3.
        attributes
            The complete attributes.
        keep
            Whether to keep everything else in its document, such as consolidated metadata.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        if zarr_format == 3:
            old = self.document("zarr.json") if keep else {}
            self._put("zarr.json", _of_format_3(old, attributes))
        else:
            self._put(".zattrs", attributes)
            self._put(".zgroup", _FORMAT_2)

    def describe(self, zarr_format: int, attributes: Document) -> None:
        """Replace the attributes of a local group that is filled and about to be published.

        Its folder is never created: a process that resumes after another one has published the
        group must not publish an empty group in its place.

        Raises
        ------
        RunError
            If the folder is gone.
        OutputError
            If it cannot be written.
        """
        try:
            ZarrGroup(self.folder.anchored()).write(zarr_format, attributes, keep=True)
        except RunError as error:
            raise RunError(
                f"{self.folder.path} is gone: another run has taken over; nothing was published"
            ) from error

    def update(
        self,
        zarr_format: int,
        change: Callable[[Document], Document],
        *,
        afresh: bool = False,
    ) -> None:
        """Change its attributes, creating it if missing, without losing concurrent changes.

        Parameters
        ----------
        zarr_format
            2 or 3.
        change
            Receives the attributes and returns the new ones; may be called several times.
        afresh
            Whether to start a new group that keeps nothing but the result of `change`.

        Raises
        ------
        OutputError
            If it cannot be written.
        """

        def changed(old: bytes | None) -> bytes:
            document = {} if old is None else parse_document(old, self.folder.path)
            if zarr_format == 2:
                return packed(change(document))
            attributes = change(dict(document.get("attributes", {})))
            return packed(_of_format_3({} if afresh else document, attributes))

        self.folder.update("zarr.json" if zarr_format == 3 else ".zattrs", changed)
        if zarr_format == 2:
            self.folder.create(".zgroup", packed(_FORMAT_2))

    def _put(self, name: str, document: Document) -> None:
        self.folder.write(name, packed(document), durable=True)


_FORMAT_2: Document = {"zarr_format": 2}


def _of_format_3(old: Document, attributes: Document) -> Document:
    return {"zarr_format": 3, "node_type": "group", **old, "attributes": attributes}


def packed(document: Document) -> bytes:
    """Return the stored form of a document."""
    return json.dumps(document, indent=2).encode()


def parse_document(data: bytes, where: str) -> Document:
    """Read a JSON object from bytes.

    Raises
    ------
    MetadataError
        If they are not a JSON object.
    """
    with foreign(where, "not a JSON document", todo="restore it", kind=MetadataError):
        document = parse_json(data)
    if not isinstance(document, dict):
        raise MetadataError(f"{where}: not a JSON object; restore it")
    return document


def ngff_content(attributes: Document) -> Document:
    """Find the NGFF metadata among the attributes of a group, for any version."""
    content = attributes.get("ome", attributes)
    return dict(content) if isinstance(content, dict) else {}


def ngff_version(attributes: Document) -> str | None:
    """Return the NGFF version of the image with these attributes; None if it is not an image.

    Versions before 0.4 often do not record it; "0.1" stands for all of those.
    """
    content = ngff_content(attributes)
    match content:
        case {"multiscales": [{**first}, *_]}:
            return str(content.get("version") or first.get("version") or "0.1")
    return None
