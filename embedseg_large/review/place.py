"""Locations of labels, their review and the finished copy."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from embedseg_large.errors import UsageError
from embedseg_large.labels.folder import is_label_name
from embedseg_large.labels.published import label_names, split_place, without_kept
from embedseg_large.storage.connection import is_remote, joined, shown
from embedseg_large.storage.folder import Folder
from embedseg_large.storage.open import folder_at

SUFFIX = "_reviewed"
"""Suffix of the name of reviewed labels."""
REVIEWS = "reviews"
"""Folder of the reviews in a store."""


@dataclass(frozen=True, kw_only=True)
class ReviewPlace:
    """Labels in a store, and a review of them."""

    store: str = field(repr=False)
    """Path or URL of the store."""
    labels: str
    """Name of the source labels."""
    name: str
    """Name of the reviewed labels."""

    @property
    def source(self) -> str:
        """Path or URL of the labels."""
        return joined(self.store, f"labels/{self.labels}")

    @property
    def path(self) -> str:
        """Path or URL of the review."""
        return joined(self.store, f"{REVIEWS}/{self.name}")

    @property
    def folder(self) -> Folder:
        """The folder of the review."""
        return folder_at(self.path)

    @property
    def published(self) -> str:
        """Path or URL of the finished copy."""
        return joined(self.store, f"labels/{self.name}")


def find_place(labels: str | os.PathLike[str], name: str | None) -> ReviewPlace:
    """Locate a review, given the labels, the reviewed labels, or their store.

    Raises
    ------
    UsageError
        If the labels are not in a store, or there are several and none was chosen.
    """
    path = os.fspath(labels).rstrip("/")
    if not is_remote(path):
        path = str(Path(path).absolute())
    store, own = split_place(path) or (path, _only(path))
    is_result = own.endswith(SUFFIX) and folder_at(joined(store, f"{REVIEWS}/{own}")).exists(ABOUT)
    if is_result and name in (None, own):
        own, name = own.removesuffix(SUFFIX), own
    name = name or f"{own}{SUFFIX}"
    if not is_label_name(name) or name == own:
        raise UsageError(f"{name[:80]!r} cannot name reviewed labels of {own}; choose another name")
    return ReviewPlace(store=store, labels=own, name=name)


ABOUT = "review.json"
"""Name of the object that describes the labels of a review."""


def _only(store: str) -> str:
    """Return the only labels of a store that are not the result of a review.

    Raises
    ------
    UsageError
        If there are none or several.
    """
    names = without_kept(label_names(store))
    own = [n for n in names if not (n.endswith(SUFFIX) and n.removesuffix(SUFFIX) in names)]
    if len(own) == 1:
        return own[0]
    if not own and not is_remote(store) and not Path(store).exists():
        raise UsageError(f"{shown(store)}: there is no such file or folder")
    found = f"has several labels: {', '.join(own)}" if own else "has no labels inside"
    raise UsageError(f"{shown(store)} {found}; name one, as STORE/labels/NAME")
