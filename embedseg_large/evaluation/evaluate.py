"""Compare label volumes of any size: one pair, many images, or several runs.

Images are scored one by one and then pooled: their matches and errors are added up before any ratio
is computed, so every object has equal weight.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedseg_large.errors import UsageError
from embedseg_large.evaluation.compare import compare
from embedseg_large.evaluation.contingency import Contingency
from embedseg_large.evaluation.errors import DEFAULT_RULE, ErrorRule, find_errors
from embedseg_large.evaluation.localisation import check_localisation, localised_scores
from embedseg_large.evaluation.options import EvaluateOptions
from embedseg_large.evaluation.pairs import open_label_pairs
from embedseg_large.evaluation.scores import Score, score_of_counts, scores
from embedseg_large.geometry import Box
from embedseg_large.options import takes
from embedseg_large.runs.dask.backend import readers_of
from embedseg_large.storage.tables import TABULAR, check_table_path, stacked, write_table

logger = logging.getLogger(__name__)

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, slots=True)
class ImageScores:
    """The scores of one image."""

    name: str
    """Stem of the true labels, or their number in a list of arrays."""
    scores: list[Score]
    """One per threshold."""
    errors: dict[str, int] | None
    """Number of objects of each of `embedseg_large.evaluation.errors.KINDS`, if errors were
    requested."""
    region: Box | None = None
    """The scored region, if the labels are a preview."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores of all images together, and of each."""

    scores: list[Score]
    """One per threshold, pooled over the objects of all images."""
    images: list[ImageScores]
    """Each image, in the order of the list or of the stems."""

    @property
    def errors(self) -> dict[str, int] | None:
        """Number of objects of each kind in all images."""
        counts = [image.errors for image in self.images if image.errors is not None]
        return {kind: sum(c[kind] for c in counts) for kind in counts[0]} if counts else None


@dataclass(frozen=True, slots=True)
class RunScores:
    """Several predictions of the same truth, such as of models trained with different seeds."""

    runs: list[Evaluation]
    """Each prediction."""

    @property
    def mean(self) -> list[dict[str, float]]:
        """Mean over runs of every field of the pooled `Score`, one dict per threshold."""
        return self._each(np.mean)

    @property
    def deviation(self) -> list[dict[str, float]]:
        """Standard deviation over runs (n - 1), except for the threshold itself."""
        each = self._each(lambda values: np.std(values, ddof=1))
        return [d | {"threshold": m["threshold"]} for d, m in zip(each, self.mean, strict=True)]

    def _each(self, statistic: Any) -> list[dict[str, float]]:
        rows = zip(*(run.scores for run in self.runs), strict=True)
        dicts = [[score.as_dict() for score in row] for row in rows]
        return [{k: float(statistic([d[k] for d in ds])) for k in ds[0]} for ds in dicts]


@takes(EvaluateOptions)
def evaluate(
    prediction: Any,
    truth: Any,
    thresholds: Sequence[float] = THRESHOLDS,
    *,
    error_rule: ErrorRule = DEFAULT_RULE,
    **options: Any,
) -> list[Score]:
    """Score predicted instances against true ones.

    Parameters
    ----------
    prediction, truth
        Integer labels of the same shape, 0 for background (and so is what is negative in a
        prediction; in the truth it is not annotated): arrays, or paths of label groups
        (``STORE/labels/NAME``), TIFFs or zarr arrays, which are read box by box. For many images,
        pass two lists of these, or two folders of files with the same stems. If `segment` made the
        labels of a region, only that region is compared, with a warning. Objects of a 2D image
        that overlap are a stack of masks, ``(objects, y, x)``; see `overlapping`.
    thresholds
        Values of `localisation` from which a pair of instances counts as a match.
    error_rule
        Thresholds of the table of errors; it compares masks, whatever `localisation` is.
    **options

    Returns
    -------
    One `Score` per threshold: AP = TP / (TP + FP + FN), precision, recall, F1, PQ and mean IoU of
    the pairs, from a one-to-one matching. For many images, pooled over their instances.

    Raises
    ------
    VolumeError
        If a side cannot be read or does not hold integers, or the shapes differ.
    UsageError
        If a threshold is not between 0 and 1, a side is an image, an image has no partner, or the
        suffix of the table is not supported.
    OutputError
        If the table cannot be written.

    See Also
    --------
    evaluate_images : The same, with the scores of each image and counts of errors.
    evaluate_runs : Mean and standard deviation over several predictions.
    """
    return evaluate_images(prediction, truth, thresholds, error_rule=error_rule, **options).scores


@takes(EvaluateOptions)
def evaluate_images(
    predictions: Any,
    truths: Any,
    thresholds: Sequence[float] = THRESHOLDS,
    *,
    count_errors: bool = False,
    error_rule: ErrorRule = DEFAULT_RULE,
    **options: Any,
) -> Evaluation:
    """Score predicted instances of many images, each and pooled.

    Parameters
    ----------
    predictions, truths, thresholds, error_rule
        As for `evaluate`.
    count_errors
        Count errors even if no table of them is written.
    **options

    Raises
    ------
    VolumeError, UsageError, OutputError
        As for `evaluate`; a message about one of many images starts with its name.
    """
    asked = EvaluateOptions.of(options, "evaluate_images")
    check_localisation(asked.localisation, asked.boundary_width)
    scores(Contingency.empty(), thresholds)  # refuse invalid thresholds before hours of reading
    if asked.errors is not None:
        check_table_path(asked.errors, TABULAR)
    wanted = count_errors or asked.errors is not None
    width = asked.boundary_width if asked.localisation == "boundary" else None
    images, tables = [], []
    pairs = list(
        open_label_pairs(
            predictions,
            truths,
            asked.axes,
            asked.ignore,
            timepoint=asked.timepoint,
            allow_missing=asked.allow_missing,
            overlapping=asked.overlapping,
        )
    )
    for ndim in {len(pair.shape) for pair in pairs} if width is not None else ():
        check_localisation(asked.localisation, asked.boundary_width, ndim)
    volumes = [volume for pair in pairs for volume in (pair.prediction, pair.truth)]
    with readers_of([volume.path for volume in volumes], asked) as able:
        for pair in pairs:
            if pair.region is not None:
                logger.warning(
                    "%s: labels of %s only; only this region is scored", pair.name, pair.region
                )
            compared = compare(pair, shell_width=width, errors=wanted, workers=able)
            scored = localised_scores(compared.located, thresholds, asked.localisation)
            judged = None if compared.found is None else find_errors(compared.found, error_rule)
            counts = judged.counts if judged else None
            images.append(ImageScores(pair.name, scored, counts, pair.region))
            if judged is not None and asked.errors is not None:
                tables.append(judged.columns(pair.name, pair.voxel_size, pair.origin))
    if asked.errors is not None:
        write_table(asked.errors, stacked(tables))
    return Evaluation(pooled([image.scores for image in images]), images)


def evaluate_runs(
    predictions: Sequence[Any], truth: Any, thresholds: Sequence[float] = THRESHOLDS, **options: Any
) -> RunScores:
    """Score several predictions against one truth, to distinguish differences from chance.

    Parameters
    ----------
    predictions
        Two or more predictions as for `evaluate`: for each run one volume, or one folder or list of
        images.
    truth, thresholds
        As for `evaluate`.
    **options
        `axes`, `ignore`, `overlapping`, `localisation`, `boundary_width` and `workers` of
        `evaluate`.

    Raises
    ------
    VolumeError, UsageError
        As for `evaluate`; also a UsageError if there are fewer than two runs.
    """
    if len(predictions) < 2:
        raise UsageError(
            f"{len(predictions)} run has no standard deviation; pass at least two predictions"
        )
    return RunScores([evaluate_images(p, truth, thresholds, **options) for p in predictions])


def pooled(images: Sequence[Sequence[Score]]) -> list[Score]:
    """Score the objects of all images together.

    Parameters
    ----------
    images
        For each image one score per threshold, with the same thresholds for all; at least one
        image.
    """
    if len(images) == 1:
        return list(images[0])
    return [_pooled(row) for row in zip(*images, strict=True)]


def _pooled(row: Sequence[Score]) -> Score:
    return score_of_counts(
        row[0].threshold,
        sum(score.mean_matched_iou * score.tp for score in row),
        sum(score.tp for score in row),
        sum(score.fp for score in row),
        sum(score.fn for score in row),
    )
