"""Consolidated metadata: a copy of all documents of a tree in its root, kept up to date.

Readers that trust it would otherwise not see a new label group. Groups without it are not changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from embedseg_large.errors import UnreachableError
from embedseg_large.storage.failures import is_denied
from embedseg_large.storage.group import DOCUMENTS, Document, ZarrGroup, packed, parse_document

if TYPE_CHECKING:
    from embedseg_large.storage.bucket import RemoteFolder

_V2_DOCUMENTS = (".zgroup", ".zarray", ".zattrs")


def refresh_on_disk(folder: Path) -> None:
    """Update the consolidated metadata of a group and its ancestors after a change to the group.

    Only documents below `folder` are read again, so the cost does not depend on the size of the
    store. Groups without consolidated metadata are not changed.

    Raises
    ------
    OutputError
        If a document cannot be written.
    """
    for ancestor in (folder, *folder.parents):
        if ZarrGroup.at(ancestor).zarr_format() is None:
            return
        inside = folder.relative_to(ancestor).as_posix()
        _refresh(ancestor, "" if inside == "." else inside)


def _refresh(root: Path, inside: str) -> None:
    """Replace the entries of the member `inside` in the consolidated metadata of `root`."""
    group = ZarrGroup.at(root)
    name = "zarr.json" if group.zarr_format() == 3 else ".zmetadata"
    document = group.document(name)
    consolidated = document.get("consolidated_metadata") if name == "zarr.json" else document
    if not consolidated:
        return
    kept = {
        key: value
        for key, value in consolidated["metadata"].items()
        if inside and key != inside and not key.startswith(f"{inside}/")
    }
    fresh = _v3_documents if name == "zarr.json" else _v2_documents
    consolidated["metadata"] = kept | {key: value for key, value in fresh(root, inside) if key}
    group.folder.write(name, packed(document), durable=True)


def _v3_documents(root: Path, inside: str) -> Iterator[tuple[str, Document]]:
    for folder in _nodes(root / inside):
        document = ZarrGroup.at(folder).document("zarr.json")
        document.pop("consolidated_metadata", None)
        key = folder.relative_to(root).as_posix()
        yield "" if key == "." else key, document


def _v2_documents(root: Path, inside: str) -> Iterator[tuple[str, Document]]:
    for folder in _nodes(root / inside):
        for name in _V2_DOCUMENTS:
            if (folder / name).exists():
                yield (
                    (folder / name).relative_to(root).as_posix(),
                    ZarrGroup.at(folder).document(name),
                )


def _nodes(folder: Path) -> Iterator[Path]:
    """Find groups and arrays of a tree, except hidden (unpublished) groups."""
    for path, folders, files in os.walk(folder):
        if {"zarr.json", ".zgroup", ".zarray"} & set(files):
            yield Path(path)
        is_group = ZarrGroup.at(path).zarr_format() is not None
        folders[:] = sorted(f for f in folders if is_group and not f.startswith("."))


def refresh_in_bucket(folder: RemoteFolder, members: Mapping[str, Mapping[str, Document]]) -> None:
    """Update the consolidated metadata of a group and its ancestors after changes to members.

    Nothing is listed, so the cost does not depend on the size of the store. Folders above a
    readable prefix are not ancestors.

    Parameters
    ----------
    folder
        The group.
    members
        The documents of each changed member, by their names below `folder`:
        ``{"NAME": {"NAME/0/zarr.json": {...}}}``. The group itself is the
        member "".

    Raises
    ------
    OutputError
        If a document cannot be written.
    """
    for ancestor, inside in _ancestors(folder):
        try:
            zarr_format = ZarrGroup(ancestor).zarr_format()
        except UnreachableError as error:
            if not is_denied(error):
                raise
            return
        if zarr_format is None:
            return
        name = "zarr.json" if zarr_format == 3 else ".zmetadata"
        if _metadata_of(ZarrGroup(ancestor).document(name)) is not None:
            ancestor.update(name, _refreshed(inside, members))


def _refreshed(
    inside: str, members: Mapping[str, Mapping[str, Document]]
) -> Callable[[bytes | None], bytes]:
    """Return the change to a document with consolidated metadata; `inside` ends with a slash."""

    def change(old: bytes | None) -> bytes:
        document = parse_document(old or b"{}", "consolidated metadata")
        metadata = _metadata_of(document)
        if metadata is None:
            return old or b"{}"
        for member, documents in members.items():
            _drop(metadata, inside, member)
            fresh = {_key(inside + name, document): about for name, about in documents.items()}
            metadata.update((key, about) for key, about in fresh.items() if key)
        return packed(document)

    return change


def _drop(metadata: Document, inside: str, member: str) -> None:
    """Remove the documents of a member."""
    at = (inside + member).rstrip("/")
    of_itself = {at, *(f"{inside}{name}" for name in DOCUMENTS)} if not member else {at}
    for key in [k for k in metadata if k in of_itself or (member and k.startswith(f"{at}/"))]:
        del metadata[key]


def _key(name: str, document: Document) -> str:
    """Return the key of a document in consolidated metadata of its format; empty for the root."""
    if "consolidated_metadata" in document:
        return name.removesuffix("zarr.json").rstrip("/")
    return name


def _metadata_of(document: Document) -> Document | None:
    consolidated = document.get("consolidated_metadata") or document
    metadata = consolidated.get("metadata")
    return metadata if isinstance(metadata, dict) else None


def _ancestors(folder: RemoteFolder) -> Iterator[tuple[RemoteFolder, str]]:
    """Yield a folder and its ancestors, each with the path back down, ending with a slash."""
    inside = ""
    while True:
        yield folder, inside
        parent = folder.parent()
        if parent is None:
            return
        inside = f"{folder.key.rpartition('/')[2]}/{inside}"
        folder = parent
