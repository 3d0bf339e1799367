"""Whether the labels of a review have changed since it began.

Shape, dtype and run must be equal. Voxels are compared only in the boxes of decisions: first by the
stamp of their files, which is fast, and by their digest where the stamp differs, so that a store
may be copied.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from embedseg_large.errors import MetadataError, UsageError, foreign
from embedseg_large.geometry import Box
from embedseg_large.labels.published import provenance_of
from embedseg_large.review.log import Decision, Log
from embedseg_large.review.place import ABOUT, ReviewPlace
from embedseg_large.storage.connection import shown
from embedseg_large.storage.folder import Folder
from embedseg_large.volumes.volume import Volume

_FORMAT = 1
_PLANES = 64
"""Number of planes that are read at a time."""


def digest_of(source: Volume, box: Box) -> str:
    """Compute the digest of the labels in a box, the same for any dtype."""
    digest = blake2b(digest_size=8)
    for slab in box.split((_PLANES, *box.stop[1:])):  # in raster order
        digest.update(source.read(slab).astype("<i8").tobytes())
    return digest.hexdigest()


def about(place: ReviewPlace, source: Volume) -> dict[str, Any]:
    """Describe labels, as values that JSON can hold."""
    return {
        "format": _FORMAT,
        "labels": place.labels,
        "shape": list(source.stored_shape),
        "dtype": source.dtype.name,
        "token": provenance_of(place.source).get("token"),
    }


def read_about(folder: Folder) -> Mapping[str, Any] | None:
    """Read the description of a review; None if there is no review yet.

    Raises
    ------
    MetadataError
        If it is not a valid description.
    """
    try:
        data = folder.read(ABOUT)
    except FileNotFoundError:
        return None
    where = f"{folder.path}/{ABOUT}"
    with foreign(where, "describes no review", todo="restore it", kind=MetadataError):
        found = json.loads(data)
        if found["format"] != _FORMAT:
            raise ValueError(f"format {found['format']}, this version reads {_FORMAT}")
        return dict(found)


def check_same(recorded: Mapping[str, Any], place: ReviewPlace, source: Volume, log: Log) -> None:
    """Refuse labels that differ from those reviewed.

    Raises
    ------
    UsageError
        If the labels differ; nothing has been changed.
    """
    now = about(place, source)
    other = [name for name in now if recorded.get(name) != now[name]]
    if other:
        raise _changed(place, log, f"{_WORDS.get(other[0], other[0])} differs")
    for number, step in enumerate(log.steps):
        if isinstance(step, Decision) and not _is_same(step, source):
            raise _changed(place, log, f"the voxels of {str(step.edit)[:40]} (step {number})")


_WORDS = {"token": "the run that made them"}


def _is_same(decision: Decision, source: Volume) -> bool:
    box = decision.change.box
    if decision.stamp and decision.stamp == source.stamp(box):
        return True
    return decision.digest == digest_of(source, box)


def _changed(place: ReviewPlace, log: Log, what: str) -> UsageError:
    return UsageError(
        f"{shown(place.source)} has changed since its review began ({what}); the "
        f"{len(log.active)} decisions stay in {shown(place.path)}: restore the labels, or begin "
        "another review with another name (--name)"
    )
