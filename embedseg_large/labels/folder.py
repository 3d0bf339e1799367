"""The ``labels`` folder of a store: where labels are written, and how they come to be seen.

On a disk, labels are written under a hidden name and renamed (`label_disk`). In a bucket, where
nothing can be renamed, they are written in place and their group's document comes last
(`label_bucket`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from embedseg_large.errors import LabelsExistError
from embedseg_large.storage.group import Document
from embedseg_large.volumes.multiscale import MultiscaleStore

PROVENANCE = "embedseg_large"
"""Attribute that marks labels as written by this package, and says how they were made."""


LONGEST_NAME = 200
"""Bytes: file systems take 255, and hidden names beside the labels are longer than theirs."""
_BAD_NAME = re.compile(r"^$|^\.|^__|[/\\]|^zarr\.json$")


def is_label_name(name: object) -> bool:
    """Whether a name can be one of labels: it is one folder's, on any disk."""
    if not isinstance(name, str) or _BAD_NAME.search(name) or not name.isprintable():
        return False
    return len(name.encode()) <= LONGEST_NAME


def provenance_in(attributes: Document) -> Document:
    """How labels were made, of their attributes; empty where that is not said, or is no object."""
    found = attributes.get(PROVENANCE)
    return dict(found) if isinstance(found, dict) else {}


def is_of_a_run(attributes: Document) -> bool:
    """Whether a run made labels, which can make them again; others may have painted them."""
    return "token" in provenance_in(attributes)


def is_of_run(attributes: Document, run: str | None) -> bool:
    """Whether labels are those that an unfinished run of this name has published."""
    return run is not None and provenance_in(attributes).get("run") == run


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """Labels that are not published yet."""

    name: str
    """Name that they get."""
    run: str
    """Short name of the run that writes them."""
    store: MultiscaleStore
    """Where they are until then."""


class LabelFolder(Protocol):
    """The ``labels`` folder of one store."""

    @property
    def store(self) -> str:
        """Absolute path of the store, or URL without credentials."""

    def attributes(self) -> Document:
        """Read the attributes of the store; empty where there is none."""

    def zarr_format(self) -> int | None:
        """Tell the zarr format of the store; None if it is no zarr group."""

    def holds_something_else(self) -> bool:
        """Whether something is at the store's place that is no zarr group."""

    def check(self, name: str, version: str, *, overwrite: bool, run: str | None = None) -> None:
        """Find out whether labels of that name can be written.

        A publication that was killed half-way is settled first. Labels that the unfinished run of
        the name `run` has published do not count as taken: it goes on to `complete`.

        Raises
        ------
        LabelsExistError
            If the name is taken, and may not be overwritten.
        OutputError
            If nothing can be written there.
        """

    def place(self, name: str, run: str) -> tuple[str, str]:
        """Say where a run writes labels; touches nothing.

        Parameters
        ----------
        name
            Name of the labels.
        run
            Short name of the run, of letters and digits.

        Returns
        -------
        path, suffix
            Of the `MultiscaleStore`: another run has another path or another suffix, so that what
            a task writes after its run has ended does no harm.
        """

    def begin(self, draft: Draft) -> None:
        """Make the arrays, or find those of the run's earlier attempt.

        Raises
        ------
        OutputError
            If they cannot be written, or another run has just begun.
        """

    def publish(self, draft: Draft, attributes: Document, *, overwrite: bool) -> None:
        """Give labels their attributes and their name.

        Raises
        ------
        LabelsExistError
            If the name was taken meanwhile, and may not be overwritten.
        RunError
            If another run began to write labels of that name.
        OutputError
            If it fails; older labels are as they were then.
        """

    def complete(self, name: str, run: str, version: str) -> Document | None:
        """Do what is left of a publication that was cut short after the labels had their name.

        Returns
        -------
        dict or None
            How the labels were made; None if those of that name are not of the run.

        Raises
        ------
        OutputError
            If it cannot be done.
        """

    def discard(self, draft: Draft) -> None:
        """Remove unpublished labels."""


def refuse_taken(path: str) -> None:
    """Say that labels of that name are there.

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
        What the group has; not changed.
    name
        The name.
    version
        NGFF version of the labels.
    """
    new = dict(attributes)
    content = dict(new.get("ome", {})) if version == "0.5" else new
    names = content.get("labels", [])
    content["labels"] = [*names, *(() if name in names else (name,))]
    if version == "0.5":
        content["version"] = version  # validators refuse the whole image without it
        new["ome"] = content
    return new
