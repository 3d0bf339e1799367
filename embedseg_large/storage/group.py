"""Local zarr groups as the JSON documents that they are.

Documents are replaced by a rename, so a reader sees the old or the new one and never an incomplete
one. Consolidated metadata (a copy of all documents in the root) is kept up to date: readers that
trust it would otherwise not see a new label group.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embedseg_large.documents import parse_json, read_document
from embedseg_large.errors import MetadataError, OutputError, foreign
from embedseg_large.files import make_folders, whole
from embedseg_large.storage.disk import output_errors, require_unpublished

Document = dict[str, Any]

_V2_DOCUMENTS = (".zgroup", ".zarray", ".zattrs")


def write_json(file: Path, document: Document) -> None:
    """Replace a JSON file at once, and durably.

    Raises
    ------
    OutputError
        If it cannot be written; the old file then remains.
    """
    with output_errors(file), whole(file, durable=True) as begun:
        begun.write_text(json.dumps(document, indent=2), encoding="utf-8")


def read_json(file: Path) -> Document:
    """Read a JSON object; a missing file counts as empty.

    Raises
    ------
    MetadataError
        If the file is not a JSON object.
    """
    if not file.exists():
        return {}
    with foreign(file, "not a JSON document", todo="restore it", kind=MetadataError):
        return parse_document(read_document(file), str(file))


def parse_document(data: bytes, where: str) -> Document:
    """Read a JSON object from bytes.

    Raises
    ------
    MetadataError
        If they are none.
    """
    with foreign(where, "not a JSON document", todo="restore it", kind=MetadataError):
        document = parse_json(data)
    if not isinstance(document, dict):
        raise MetadataError(f"{where}: not a JSON object; restore it")
    return document


def group_format(folder: Path) -> int | None:
    """Return the zarr format (2 or 3) of the group in a folder; None if there is no group."""
    if read_json(folder / "zarr.json").get("node_type") == "group":
        return 3
    return 2 if (folder / ".zgroup").exists() else None


def read_attributes(folder: Path) -> Document:
    """Read the attributes of a group; empty if there is no group."""
    document = read_json(folder / "zarr.json")
    attributes = document.get("attributes", {}) if document else read_json(folder / ".zattrs")
    return dict(attributes) if isinstance(attributes, dict) else {}


def write_group(folder: Path, zarr_format: int, attributes: Document) -> None:
    """Turn a folder into a zarr group with these attributes, replacing existing ones.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    with output_errors(folder):
        make_folders(folder, durable=True)
    _write_documents(folder, zarr_format, attributes)


def describe_group(folder: Path, zarr_format: int, attributes: Document) -> None:
    """Replace the attributes of a group that is filled and about to be published.

    The folder is never made: who wakes up after another process has published it must not publish
    an empty one in its place.

    Raises
    ------
    RunError
        If the folder is gone.
    OutputError
        If it cannot be written.
    """
    try:
        _write_documents(folder, zarr_format, attributes)
    except OutputError:
        require_unpublished(folder)
        raise


def _write_documents(folder: Path, zarr_format: int, attributes: Document) -> None:
    """Write what makes a folder a group."""
    if zarr_format == 3:
        group = {"zarr_format": 3, "node_type": "group", **read_json(folder / "zarr.json")}
        write_json(folder / "zarr.json", {**group, "attributes": attributes})
    else:
        write_json(folder / ".zattrs", attributes)
        write_json(folder / ".zgroup", {"zarr_format": 2})


def ngff_content(attributes: Document) -> Document:
    """Find the NGFF metadata among the attributes of a group, for any version."""
    content = attributes.get("ome", attributes)
    return dict(content) if isinstance(content, dict) else {}


def ngff_version(attributes: Document) -> str | None:
    """Return the NGFF version of the image with these attributes; None if it is not an image.

    Versions before 0.4 are often not written down; "0.1" stands for all of those.
    """
    content = ngff_content(attributes)
    match content:
        case {"multiscales": [{**first}, *_]}:
            return str(content.get("version") or first.get("version") or "0.1")
    return None


def refresh_consolidated(folder: Path) -> None:
    """Update consolidated metadata of a group and of its ancestors for the group.

    Only documents below `folder` are read again, so the cost does not depend on the size of the
    store. Groups without consolidated metadata are not changed.

    Raises
    ------
    OutputError
        If a document cannot be written.
    """
    for ancestor in (folder, *folder.parents):
        if group_format(ancestor) is None:
            return
        inside = folder.relative_to(ancestor).as_posix()
        _refresh(ancestor, "" if inside == "." else inside)


def _refresh(root: Path, inside: str) -> None:
    """Replace the entries of the member `inside` in the consolidated metadata of `root`."""
    file = root / ("zarr.json" if group_format(root) == 3 else ".zmetadata")
    document = read_json(file)
    consolidated = document.get("consolidated_metadata") if file.name == "zarr.json" else document
    if not consolidated:
        return
    kept = {
        key: value
        for key, value in consolidated["metadata"].items()
        if inside and key != inside and not key.startswith(f"{inside}/")
    }
    fresh = _v3_documents if file.name == "zarr.json" else _v2_documents
    consolidated["metadata"] = kept | {key: value for key, value in fresh(root, inside) if key}
    write_json(file, document)


def _v3_documents(root: Path, inside: str) -> Iterator[tuple[str, Document]]:
    for folder in _nodes(root / inside):
        document = read_json(folder / "zarr.json")
        document.pop("consolidated_metadata", None)
        key = folder.relative_to(root).as_posix()
        yield "" if key == "." else key, document


def _v2_documents(root: Path, inside: str) -> Iterator[tuple[str, Document]]:
    for folder in _nodes(root / inside):
        for file in (folder / name for name in _V2_DOCUMENTS):
            if file.exists():
                yield file.relative_to(root).as_posix(), read_json(file)


def _nodes(folder: Path) -> Iterator[Path]:
    """Find groups and arrays of a tree; not chunks, nor hidden (unpublished) groups."""
    for path, folders, files in os.walk(folder):
        if {"zarr.json", ".zgroup", ".zarray"} & set(files):
            yield Path(path)
        is_group = group_format(Path(path)) is not None
        folders[:] = sorted(f for f in folders if is_group and not f.startswith("."))
