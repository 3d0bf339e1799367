"""Whether labels on a disk were edited after their run had published them.

The run records the time of its publication, by the clock of the disk, in the provenance of the
labels; a file of voxels that is younger was edited. Times of files alone do not tell: whoever adds
measurements to the labels rewrites their description, which a run writes last.

A copy without times (``cp -r``) has only files that are younger than the publication. Whether it
was edited cannot be known, so that it counts as edited: nothing that was painted is lost.
"""

from __future__ import annotations

import os
from pathlib import Path

from embedseg_large.labels.folder import PROVENANCE, is_of_a_run, provenance_in
from embedseg_large.labels.published import provenance_of
from embedseg_large.storage.disk import output_errors, require_unpublished
from embedseg_large.storage.group import Document
from embedseg_large.volumes.volume import Volume

_PUBLISHED = "published"
"""Key in the provenance: time of the publication, in seconds since 1970."""
_SLACK_SECONDS = 5.0
"""Maximum difference between clocks of machines that write to one disk."""


def now_at(pending: Path) -> float:
    """Read the clock of the disk on which labels are about to be published.

    Parameters
    ----------
    pending
        The hidden folder, whose voxels are complete.

    Returns
    -------
    float
        Seconds since 1970. On a network drive the server sets the times of files, and its clock is
        not that of this machine.

    Raises
    ------
    RunError
        If the folder is gone.
    OutputError
        If its time cannot be set.
    """
    require_unpublished(pending)
    with output_errors(pending):
        os.utime(pending)
        return pending.stat().st_mtime


def dated(attributes: Document, seconds: float) -> Document:
    """Record the time of publication of labels among their attributes, if a run made them."""
    if not is_of_a_run(attributes):
        return attributes
    return attributes | {PROVENANCE: provenance_in(attributes) | {_PUBLISHED: seconds}}


def published_at(labels: Path) -> float:
    """Find when labels were published, in seconds since 1970.

    The description was never written before that: its time is an upper limit, and the best guess
    for labels of earlier versions, which record none.
    """
    described = max((p.stat().st_mtime for p in labels.iterdir() if p.is_file()), default=0.0)
    return float(min(described, provenance_of(str(labels)).get(_PUBLISHED, described)))


def was_edited(labels: Path, volume: Volume) -> bool:
    """Whether a file of voxels is younger than the publication.

    Parameters
    ----------
    labels
        Folder of the labels.
    volume
        The same labels, opened.
    """
    published = published_at(labels)
    folders = (labels / level.path for level in volume.levels)
    files = (p for folder in folders for p in folder.rglob("*") if p.is_file())
    return any(p.stat().st_mtime > published + _SLACK_SECONDS for p in files)
