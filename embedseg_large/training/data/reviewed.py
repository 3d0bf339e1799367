"""Training data from reviews: images, and masks of reviewed instances."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from embedseg_large.errors import UsageError
from embedseg_large.review.annotation import annotated_volume, image_of
from embedseg_large.review.opening import reviewed_timepoints
from embedseg_large.review.place import find_place
from embedseg_large.review.review import Review, open_review
from embedseg_large.training.data.sources import Pair
from embedseg_large.volumes.folders import is_path, stem


def reviewed_pairs(reviewed: Any, timepoint: int | None = None) -> list[Pair]:
    """Pair the images of reviews with masks of reviewed instances; everything else is unannotated.

    Parameters
    ----------
    reviewed
        Reviews, or paths and URLs as for `embedseg_large.open_review`; one, or a list.
    timepoint
        Timepoint of a series; None: every timepoint with a decision.

    Returns
    -------
    One pair for each review, with the channel that was segmented. Masks are computed where they
    are read.

    Raises
    ------
    UsageError
        If a review has no decisions, or its labels have changed.
    VolumeError
        If labels or image cannot be read.
    """
    listed = reviewed if isinstance(reviewed, list | tuple) else [reviewed]
    return [_pair(review) for each in listed for review in _opened(each, timepoint)]


def _opened(each: Any, timepoint: int | None) -> Iterator[Review]:
    if isinstance(each, Review):
        yield each
    elif not is_path(each):
        raise UsageError(f"a review is a path or a Review, not {type(each).__name__}")
    else:
        times = (
            [timepoint] if timepoint is not None else reviewed_timepoints(find_place(each, None))
        )
        for time in times:
            yield open_review(each, timepoint=time)


def _pair(review: Review) -> Pair:
    at = f" t{review.source.timepoint}" if review.source.n_timepoints > 1 else ""
    name = f"{stem(os.fspath(review.place.store))} {review.place.name}{at}"
    return Pair(name=name, image=image_of(review), mask=annotated_volume(review))
