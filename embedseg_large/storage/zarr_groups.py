"""Zarr groups in a bucket as the JSON documents that they are.

Every document is replaced atomically, on the condition that it was not changed in the meantime.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping

from embedseg_large.errors import UnreachableError
from embedseg_large.storage.bucket import RemoteFolder
from embedseg_large.storage.failures import is_denied
from embedseg_large.storage.folder import Folder
from embedseg_large.storage.group import Document, parse_document

DOCUMENTS = ("zarr.json", ".zattrs", ".zarray", ".zgroup")
"""Names of the documents of a group or an array; the one to be written last comes last."""


def read_document(folder: Folder, name: str) -> Document:
    """Read a JSON object; a missing one counts as empty.

    Raises
    ------
    MetadataError
        If it is not a JSON object.
    UnreachableError
        If it cannot be read.
    """
    try:
        return parse_document(folder.read(name), f"{folder.path}/{name}")
    except FileNotFoundError:
        return {}


def group_format(folder: Folder) -> int | None:
    """Return the zarr format (2 or 3) of the group in a folder; None if there is no group."""
    if read_document(folder, "zarr.json").get("node_type") == "group":
        return 3
    return 2 if folder.exists(".zgroup") else None


def read_attributes(folder: Folder) -> Document:
    """Read the attributes of a group; empty if there is no group."""
    denied = None
    for name in ("zarr.json", ".zattrs"):
        try:
            document = read_document(folder, name)
        except (
            UnreachableError
        ) as error:  # the answer of buckets without list permission for missing objects
            if not is_denied(error):
                raise
            denied = error
            continue
        found = document.get("attributes", {}) if name == "zarr.json" else document
        if found and isinstance(found, dict):
            return dict(found)
    if denied is not None:
        raise denied
    return {}


def write_group(folder: Folder, zarr_format: int, attributes: Document) -> None:
    """Turn a folder into a group with these attributes, replacing existing documents.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    if zarr_format == 3:
        group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        folder.write("zarr.json", _packed(group), durable=True)
    else:
        folder.write(".zattrs", _packed(attributes), durable=True)
        folder.write(".zgroup", _packed({"zarr_format": 2}), durable=True)


def update_group(
    folder: Folder,
    zarr_format: int,
    change: Callable[[Document], Document],
    *,
    afresh: bool = False,
) -> None:
    """Change the attributes of a group, and make it if it is missing; no other's change is lost.

    Parameters
    ----------
    folder
        Where it is.
    zarr_format
        2 or 3.
    change
        Gets the attributes and returns the new ones; may be called several times.
    afresh
        Whether the group becomes a new one, that keeps nothing but what `change` returns.

    Raises
    ------
    OutputError
        If it cannot be written.
    """

    def changed(old: bytes | None) -> bytes:
        document = {} if old is None else parse_document(old, folder.path)
        if zarr_format == 2:
            return _packed(change(document))
        group = {"zarr_format": 3, "node_type": "group", **({} if afresh else document)}
        return _packed(group | {"attributes": change(dict(document.get("attributes", {})))})

    folder.update("zarr.json" if zarr_format == 3 else ".zattrs", changed)
    if zarr_format == 2:
        folder.create(".zgroup", _packed({"zarr_format": 2}))


def refresh_consolidated(
    folder: RemoteFolder, members: Mapping[str, Mapping[str, Document]]
) -> None:
    """Update consolidated metadata of a group and of its ancestors for some members.

    Nothing is listed, so the cost does not depend on the size of the store. Folders above a
    readable prefix are not ancestors.

    Parameters
    ----------
    folder
        The group.
    members
        For each member that changed, its documents by their names below `folder`:
        ``{"NAME": {"NAME/0/zarr.json": {...}}}``. Those of the group itself have the member "".

    Raises
    ------
    OutputError
        If a document cannot be written.
    """
    for ancestor, inside in _ancestors(folder):
        try:
            zarr_format = group_format(ancestor)
        except UnreachableError as error:
            if not is_denied(error):
                raise
            return
        if zarr_format is None:
            return
        name = "zarr.json" if zarr_format == 3 else ".zmetadata"
        if _metadata_of(read_document(ancestor, name)) is not None:
            ancestor.update(name, _refreshed(inside, members))


def _refreshed(
    inside: str, members: Mapping[str, Mapping[str, Document]]
) -> Callable[[bytes | None], bytes]:
    """Make the change to a document with consolidated metadata; `inside` ends with a slash."""

    def change(old: bytes | None) -> bytes:
        document = parse_document(old or b"{}", "consolidated metadata")
        metadata = _metadata_of(document)
        if metadata is None:
            return old or b"{}"
        for member, documents in members.items():
            _drop(metadata, inside, member)
            fresh = {_key(inside + name, document): about for name, about in documents.items()}
            metadata.update((key, about) for key, about in fresh.items() if key)
        return _packed(document)

    return change


def _drop(metadata: Document, inside: str, member: str) -> None:
    """Remove the documents of a member."""
    at = (inside + member).rstrip("/")
    of_itself = {at, *(f"{inside}{name}" for name in DOCUMENTS)} if not member else {at}
    for key in [k for k in metadata if k in of_itself or (member and k.startswith(f"{at}/"))]:
        del metadata[key]


def _key(name: str, document: Document) -> str:
    """Return the name of a document in its kind of consolidated metadata; empty for the root's."""
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


def _packed(document: Document) -> bytes:
    return json.dumps(document, indent=2).encode()
