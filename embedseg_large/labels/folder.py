"""The ``labels`` folder of a store: where labels are written, and how they are published.

On a disk, labels are written under a hidden name and renamed (`embedseg_large.labels.on_disk`). In
a bucket, where nothing can be renamed, they are written in place, and their group's document is
written last (`embedseg_large.labels.in_bucket`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from embedseg_large.errors import LabelsExistError
from embedseg_large.storage.group import Document
from embedseg_large.volumes.multiscale import ZARR_FORMATS, MultiscaleStore

PROVENANCE = "embedseg_large"
"""Attribute that marks labels as written by this package, with their provenance."""


LONGEST_NAME = 200
"""Maximum bytes of a name: file systems allow 255, and hidden names beside the labels are
longer."""
_BAD_NAME = re.compile(r"^$|^\.|^__|[/\\]|^zarr\.json$")


def is_label_name(name: object) -> bool:
    """Whether a name can be used for labels, as a folder on any disk."""
    if not isinstance(name, str) or _BAD_NAME.search(name) or not name.isprintable():
        return False
    return len(name.encode()) <= LONGEST_NAME


def provenance_in(attributes: Document) -> Document:
    """Return the provenance of labels from their attributes; empty if missing or not an object."""
    found = attributes.get(PROVENANCE)
    return dict(found) if isinstance(found, dict) else {}


def is_of_a_run(attributes: Document) -> bool:
    """Whether labels were written by a run, which can be repeated, rather than painted."""
    return "token" in provenance_in(attributes)


def is_of_run(attributes: Document, run: str | None) -> bool:
    """Whether labels are those that an unfinished run of this name has published."""
    return run is not None and provenance_in(attributes).get("run") == run


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """Labels that are not published yet."""

    name: str
    """Their final name."""
    run: str
    """Short name of the run that writes them."""
    store: MultiscaleStore
    """Their location until then."""


class LabelFolder(Protocol):
    """The ``labels`` folder of one store."""

    @property
    def store(self) -> str:
        """Absolute path of the store, or URL without credentials."""

    def attributes(self) -> Document:
        """Read the attributes of the store; empty if there is none."""

    def zarr_format(self) -> int | None:
        """Return the zarr format of the store; None if it is not a zarr group."""

    def holds_something_else(self) -> bool:
        """Whether there is something other than a zarr group at the path of the store."""

    def check(self, name: str, version: str, *, overwrite: bool, run: str | None = None) -> None:
        """Check that labels of that name can be written.

        An interrupted publication is settled first. Labels that the unfinished run named
        `run` has published do not count as taken: it continues with `complete`.

        Raises
        ------
        LabelsExistError
            If the name is taken, and may not be overwritten.
        OutputError
            If it is not writable.
        """

    def place(self, name: str, run: str) -> tuple[str, str]:
        """Return where a run writes labels; touches nothing.

        Parameters
        ----------
        name
            Name of the labels.
        run
            Short name of the run, of letters and digits.

        Returns
        -------
        path, suffix
            Arguments of the `MultiscaleStore`. Every run has a different path or suffix, so that a
            task that writes after the end of its run does no harm.
        """

    def begin(self, draft: Draft) -> None:
        """Create the arrays, or find those of the run's earlier attempt.

        Raises
        ------
        OutputError
            If they cannot be written, or another run has just started.
        """

    def publish(self, draft: Draft, attributes: Document, *, overwrite: bool) -> None:
        """Publish labels with their attributes and their name.

        Raises
        ------
        LabelsExistError
            If the name has been taken, and may not be overwritten.
        RunError
            If another run has started to write labels of that name.
        OutputError
            If it fails; older labels are then unchanged.
        """

    def complete(self, name: str, run: str, version: str) -> Document | None:
        """Complete a publication that was interrupted after the labels had got their name.

        Returns
        -------
        dict or None
            Provenance of the labels; None if the labels of that name do not belong to the run.

        Raises
        ------
        OutputError
            If it cannot be done.
        """

    def discard(self, draft: Draft) -> None:
        """Remove unpublished labels."""


def refuse_taken(path: str) -> None:
    """Report that labels of that name exist.

    Raises
    ------
    LabelsExistError
        Always.
    """
    raise LabelsExistError(f"{path} exists; choose another name, or replace it with --overwrite")


def listed(attributes: Document, name: str, version: str) -> Document:
    """Add a name to the attributes of a ``labels`` group.

    Parameters
    ----------
    attributes
        Current attributes; not changed.
    name
        The name.
    version
        NGFF version of the labels.
    """
    new = dict(attributes)
    is_nested = ZARR_FORMATS[version] == 3
    content = dict(new.get("ome", {})) if is_nested else new
    names = content.get("labels", [])
    content["labels"] = [*names, *(() if name in names else (name,))]
    if is_nested:
        content["version"] = version  # validators reject the image without it
        new["ome"] = content
    return new
