"""Detection and segmentation scores from a contingency table alone.

Definitions and numbers are those of ``stardist.matching.matching``: a predicted and a true object
match where their intersection over union (IoU) is at least the threshold, each object at most once,
so that the number of matches is maximal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from embedseg_large.errors import UsageError
from embedseg_large.evaluation.contingency import Contingency
from embedseg_large.evaluation.matching import Overlaps, matches


@dataclass(frozen=True, slots=True)
class Score:
    """The agreement of a prediction with the truth at one IoU threshold.

    Every ratio is 0 where it would be 0/0, so two volumes without objects score 0. Where models are
    compared (validation during training, and `tune`), the AP of images with neither objects nor
    instances counts as 1 instead: there is nothing to find, and nothing false was found.

    Parameters
    ----------
    threshold
        Minimum IoU of a match.
    ap
        Average precision as in the 2018 Data Science Bowl, TP / (TP + FP + FN).
    precision, recall, f1
        TP / (TP + FP), TP / (TP + FN), and their harmonic mean.
    pq
        Panoptic quality (Kirillov et al. 2019, equation 1): sum of the IoU of the matches over
        TP + FP/2 + FN/2.
    mean_matched_iou
        Mean IoU of the matches.
    tp, fp, fn
        Matches, predicted objects without one, and true objects without one.
    """

    threshold: float
    ap: float
    precision: float
    recall: float
    f1: float
    pq: float
    mean_matched_iou: float
    tp: int
    fp: int
    fn: int

    def as_dict(self) -> dict[str, float | int]:
        """Return the fields by name, ready for JSON."""
        return asdict(self)


def scores(contingency: Contingency, thresholds: Sequence[float]) -> list[Score]:
    """Score a prediction at each threshold.

    Parameters
    ----------
    contingency
        Voxel counts of predicted and true objects.
    thresholds
        Minimum IoU of a match, each in (0, 1].

    Raises
    ------
    UsageError
        If a threshold lies outside (0, 1].
    """
    for threshold in thresholds:
        if not 0 < threshold <= 1:
            raise UsageError(f"threshold {threshold} is not in (0, 1]; give an IoU such as 0.5")
    overlaps = Overlaps.of(contingency)
    return [_score(overlaps, float(threshold)) for threshold in thresholds]


def _score(overlaps: Overlaps, threshold: float) -> Score:
    matched = overlaps.iou[matches(overlaps, threshold)]
    tp = matched.size
    fp, fn = overlaps.n_prediction - tp, overlaps.n_truth - tp
    return score_of_counts(threshold, float(matched.sum()), tp, fp, fn)


def score_of_counts(threshold: float, total: float, tp: int, fp: int, fn: int) -> Score:
    """Return the score of known counts.

    Parameters
    ----------
    threshold
        Minimum value of a match.
    total
        Sum of the IoU, or of another measure, over the matches.
    tp, fp, fn
        Matches, predicted objects without one, and true objects without one.
    """
    return Score(
        threshold=threshold,
        ap=_ratio(tp, tp + fp + fn),
        precision=_ratio(tp, tp + fp),
        recall=_ratio(tp, tp + fn),
        f1=_ratio(2 * tp, 2 * tp + fp + fn),
        pq=_ratio(total, tp + fp / 2 + fn / 2),
        mean_matched_iou=_ratio(total, tp),
        tp=tp,
        fp=fp,
        fn=fn,
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
