"""The finished copy of reviewed labels: a label volume like any other, ``labels/NAME_reviewed``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from embedseg_large.errors import LabelsExistError
from embedseg_large.labels.folder import provenance_in
from embedseg_large.labels.pending import PendingLabels
from embedseg_large.labels.published import labelled_part, provenance_of
from embedseg_large.labels.target import label_target
from embedseg_large.review.opening import load_log, open_labels, voxels_at
from embedseg_large.review.place import ReviewPlace
from embedseg_large.review.voxels import ReviewedVoxels
from embedseg_large.storage.connection import refuse_web, shown
from embedseg_large.storage.group import ZarrGroup, ngff_version

KEY = "review"
"""Key of the record of a review, in the provenance of labels."""
_KEPT = ("volume", "region", "model")
"""Entries of the labels' provenance that also apply to the copy."""


def publish(place: ReviewPlace, watch: Callable[[int, int], None]) -> str:
    """Write a finished copy region by region; see `Review.publish`."""
    refuse_web(place.store, "copy the store to publish labels in it")
    _check_free(place)
    first = open_labels(place, 0)
    times = [_Moment.of(place, t) for t in range(first.n_timepoints)]
    target = label_target(first, place.name, output=place.store, overwrite=True)
    has_image = ngff_version(ZarrGroup.at(place.store).attributes()) is not None
    about = _provenance(place, [moment.edits for moment in times])
    dtype = times[0].voxels.dtype
    pending = replace(target, in_image=has_image).create(dtype, run=about["token"])
    _fill(pending, [moment.voxels for moment in times], watch)
    pending.publish(about)
    return place.published


@dataclass(frozen=True, slots=True)
class _Moment:
    """One timepoint of a review."""

    voxels: ReviewedVoxels
    edits: tuple[str, ...]
    """The decisions in force, as text."""

    @classmethod
    def of(cls, place: ReviewPlace, timepoint: int) -> _Moment:
        source = open_labels(place, timepoint)
        log, voxels = load_log(place, source), voxels_at(place, source)
        voxels.follow(log)
        return cls(voxels, tuple(str(d.edit) for d in log.decisions()))


def _fill(
    pending: PendingLabels, times: list[ReviewedVoxels], watch: Callable[[int, int], None]
) -> None:
    """Write all levels of all timepoints."""
    part = labelled_part(times[0].source)
    levels = range(pending.n_levels)
    total = len(times) * sum(1 for k in levels for _ in pending.regions(k, part))
    done = 0
    for t, voxels in enumerate(times):
        moment = t if len(times) > 1 else None
        for level in levels:
            for region in pending.regions(level, part):
                if level:
                    pending.downsample(level, region, moment)
                else:
                    pending.write(0, region, voxels.read(region), moment)
                done += 1
                watch(done, total)


def _check_free(place: ReviewPlace) -> None:
    """Refuse to replace labels that this review did not write."""
    attributes = ZarrGroup.at(place.published).attributes()
    ours = provenance_in(attributes).get(KEY)
    if attributes and (not isinstance(ours, dict) or ours.get("of") != place.labels):
        raise LabelsExistError(
            f"{shown(place.published)} exists and is no copy of this review; rename it, or "
            "begin the review with another name (--name)"
        )


def _provenance(place: ReviewPlace, edits: list[tuple[str, ...]]) -> dict[str, Any]:
    """Record the origin of the labels; the same source and decisions give the same token."""
    made = provenance_of(place.source)
    texts = [made.get("token", ""), *("\n".join(each) for each in edits)]
    counts = Counter(edit.partition(" ")[0] for each in edits for edit in each)
    return {name: made[name] for name in _KEPT if name in made} | {
        "token": blake2b("\n\n".join(texts).encode(), digest_size=16).hexdigest(),
        "labels": place.name,
        KEY: {"of": place.labels, "token": made.get("token"), "decisions": dict(counts)},
    }
