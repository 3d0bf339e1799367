"""Compare label volumes of any size: one pair, many images, or several runs.

Volumes are read box by box. What a box tells is a small table that adds up, so the result is that
of the whole volumes, whatever the boxes. Images are scored one by one and then pooled: their
matches and faults are added up before any ratio is taken, so that every object counts the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError, VolumeError
from embedseg_large.geometry import Box
from embedseg_large.io.volume import Volume, open_volume
from embedseg_large.metrics.contingency import Contingency
from embedseg_large.metrics.errors import (
    DEFAULT_RULE,
    ErrorRule,
    Found,
    Positions,
    check_table_path,
    find_errors,
    write_table,
)
from embedseg_large.metrics.localisation import (
    BOUNDARY_WIDTH,
    Localisation,
    check_localisation,
    localised_scores,
    shell,
)
from embedseg_large.metrics.scores import Score, score_of_counts, scores

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SUFFIXES = (".ome.zarr", ".ome.tiff", ".ome.tif", ".zarr", ".tiff", ".tif")
"""Endings of the images in a folder; what is before them is the stem."""
_EDGE = {2: 4096, 3: 256}
"""Of the boxes that are read at a time, in voxels, by ndim."""


@dataclass(frozen=True, slots=True)
class ImageScores:
    """The scores of one image."""

    name: str
    """Stem of the true labels, or their number in a list of arrays."""
    scores: list[Score]
    """One a threshold."""
    errors: dict[str, int] | None
    """Objects of each kind of `embedseg_large.metrics.errors.KINDS`, if errors were asked for."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores of all images together, and of each."""

    scores: list[Score]
    """One a threshold, pooled over the objects of all images."""
    images: list[ImageScores]
    """Each image, in the order of the list or of the stems."""

    @property
    def errors(self) -> dict[str, int] | None:
        """Objects of each kind in all images."""
        counts = [image.errors for image in self.images if image.errors is not None]
        return {kind: sum(c[kind] for c in counts) for kind in counts[0]} if counts else None


@dataclass(frozen=True, slots=True)
class RunScores:
    """Several predictions of the same truth, such as of models trained with different seeds."""

    runs: list[Evaluation]
    """Each prediction."""

    @property
    def mean(self) -> list[dict[str, float]]:
        """Mean over the runs of every field of the pooled `Score`, one dict a threshold."""
        return self._each(np.mean)

    @property
    def deviation(self) -> list[dict[str, float]]:
        """Standard deviation over the runs (n - 1), but the threshold itself."""
        each = self._each(lambda values: np.std(values, ddof=1))
        return [d | {"threshold": m["threshold"]} for d, m in zip(each, self.mean, strict=True)]

    def _each(self, statistic: Any) -> list[dict[str, float]]:
        rows = zip(*(run.scores for run in self.runs), strict=True)
        dicts = [[score.as_dict() for score in row] for row in rows]
        return [{k: float(statistic([d[k] for d in ds])) for k in ds[0]} for ds in dicts]


def evaluate(
    prediction: Any,
    truth: Any,
    thresholds: Sequence[float] = THRESHOLDS,
    *,
    axes: str | None = None,
    localisation: Localisation = "iou",
    boundary_width: int = BOUNDARY_WIDTH,
    errors: str | os.PathLike[str] | None = None,
    error_rule: ErrorRule = DEFAULT_RULE,
) -> list[Score]:
    """Score predicted instances against true ones.

    Parameters
    ----------
    prediction, truth
        Integer labels of the same shape, 0 for background: arrays, or paths of label groups
        (``STORE/labels/NAME``), TIFFs or zarr arrays. Read box by box. Or, for many images, two
        lists of these, or two folders of files with the same stems.
    thresholds
        Value of `localisation` from which a pair of instances counts as found.
    axes
        Letters of the axes of files that do not say it, such as ``zyx`` for a plain TIFF.
    localisation
        ``"iou"`` of masks, ``"boundary"`` IoU (Cheng et al. 2021), or ``"reference"``: intersection
        over the true instance.
    boundary_width
        Of the shell that boundary IoU compares, in voxels along every axis.
    errors
        Where to write a table of all instances, found, split, merged, missed or invented, with
        positions: a path that ends in .csv or .parquet. A file that is there is replaced.
    error_rule
        Thresholds of that table; it compares masks, whatever `localisation` is.

    Returns
    -------
    One `Score` a threshold: AP = TP / (TP + FP + FN), precision, recall, F1, PQ and mean IoU of
    the pairs, from a one-to-one matching. Of many images, pooled over their instances.

    Raises
    ------
    VolumeError
        When a side cannot be read, holds no integers, or the shapes differ.
    UsageError
        When a threshold is not between 0 and 1, a side is an image, an image has no partner, or
        the table's ending is another one.
    OutputError
        When the table cannot be written.

    See Also
    --------
    evaluate_images : The same, with the scores of each image and counts of errors.
    evaluate_runs : Mean and deviation over several predictions.
    """
    return evaluate_images(
        prediction,
        truth,
        thresholds,
        axes=axes,
        localisation=localisation,
        boundary_width=boundary_width,
        errors=errors,
        error_rule=error_rule,
    ).scores


def evaluate_images(
    predictions: Any,
    truths: Any,
    thresholds: Sequence[float] = THRESHOLDS,
    *,
    axes: str | None = None,
    localisation: Localisation = "iou",
    boundary_width: int = BOUNDARY_WIDTH,
    errors: str | os.PathLike[str] | None = None,
    count_errors: bool = False,
    error_rule: ErrorRule = DEFAULT_RULE,
) -> Evaluation:
    """Score predicted instances of many images, each and pooled.

    Parameters
    ----------
    predictions, truths, thresholds, axes, localisation, boundary_width, errors, error_rule
        As for `evaluate`.
    count_errors
        Count errors even if no table of them is written.

    Raises
    ------
    VolumeError, UsageError, OutputError
        As `evaluate`; a message about one of many images begins with its name.
    """
    check_localisation(localisation, boundary_width)
    scores(Contingency.empty(), thresholds)  # refuses wrong ones before hours of reading
    if errors is not None:
        check_table_path(errors)
    wanted = count_errors or errors is not None
    width = boundary_width if localisation == "boundary" else None
    images, tables = [], []
    for pair in _pairs(predictions, truths, axes):
        compared = _compared(pair, width, wanted)
        scored = localised_scores(compared.located, thresholds, localisation)
        judged = None if compared.found is None else find_errors(compared.found, error_rule)
        images.append(ImageScores(pair.name, scored, None if judged is None else judged.counts))
        if judged is not None and errors is not None:
            tables.append(judged.columns(pair.name, pair.voxel_size))
    if errors is not None:
        write_table(errors, {k: np.concatenate([table[k] for table in tables]) for k in tables[0]})
    return Evaluation(pooled([image.scores for image in images]), images)


def evaluate_runs(
    predictions: Sequence[Any], truth: Any, thresholds: Sequence[float] = THRESHOLDS, **options: Any
) -> RunScores:
    """Score several predictions against one truth, to tell differences from chance.

    Parameters
    ----------
    predictions
        Two or more of what `evaluate` takes as a prediction: of each run one volume, or one folder
        or list of images.
    truth, thresholds
        As for `evaluate`.
    **options
        `axes`, `localisation` and `boundary_width` of `evaluate`.

    Raises
    ------
    VolumeError, UsageError
        As `evaluate`; and UsageError if there are fewer than two runs.
    """
    if len(predictions) < 2:
        raise UsageError(f"{len(predictions)} run has no deviation; give two predictions or more")
    return RunScores([evaluate_images(p, truth, thresholds, **options) for p in predictions])


def pooled(images: Sequence[Sequence[Score]]) -> list[Score]:
    """Score the objects of all images together.

    Parameters
    ----------
    images
        Of each image one score a threshold, the same thresholds for all; at least one image.
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


@dataclass(frozen=True, slots=True)
class _Compared:
    """What two label volumes have in common; that of disjoint regions adds up."""

    located: Contingency
    """Overlaps that are scored: of masks, or of their shells."""
    found: Found | None
    """Overlaps of masks, and positions; None if no errors are wanted."""

    def __add__(self, other: _Compared) -> _Compared:
        located = self.located + other.located
        if self.found is None or other.found is None:
            return _Compared(located, None)
        return _Compared(located, self.found + other.found)


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two label volumes of one image."""

    name: str
    prediction: Volume
    truth: Volume

    def __post_init__(self) -> None:
        if self.prediction.shape != self.truth.shape:
            raise VolumeError(
                f"{self.name}: the prediction has shape {self.prediction.shape}, the truth "
                f"{self.truth.shape}; compare volumes of the same level and region"
            )
        if "t" in self.prediction.axes:
            raise VolumeError(
                f"{self.name}: the labels have {self.prediction.n_timepoints} timepoints; "
                "compare them one by one"
            )

    @property
    def voxel_size(self) -> tuple[float, ...] | None:
        """In µm, as the truth says, or else the prediction."""
        return self.truth.voxel_size or self.prediction.voxel_size


def _compared(pair: _Pair, width: int | None, errors: bool) -> _Compared:
    """Compare two volumes box by box; their shells if a `width` is given."""
    ndim = pair.truth.ndim
    boxes = Box.whole(pair.truth.spatial_shape).split((_EDGE[ndim],) * ndim)
    parts = (_compared_box(pair, box, width, errors) for box in boxes)
    return _added_up(parts, _Compared(Contingency.empty(), Found.empty(ndim) if errors else None))


def _compared_box(pair: _Pair, box: Box, width: int | None, errors: bool) -> _Compared:
    prediction, p_shell = _read(pair.prediction, box, width)
    truth, t_shell = _read(pair.truth, box, width)
    located = Contingency.of(p_shell, t_shell)
    if not errors:
        return _Compared(located, None)
    overlap = located if width is None else Contingency.of(prediction, truth)
    positions = (Positions.of(labels, box.start) for labels in (prediction, truth))
    return _Compared(located, Found(overlap, *positions))


def _read(volume: Volume, box: Box, width: int | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read the labels of a box, and what is compared of them: the same, or their shells."""
    if width is None:
        labels = volume.read(box)
        return labels, labels
    margin = box.grow((width,) * box.ndim)
    there = margin.clip(volume.spatial_shape)
    labels = volume.read(there)
    beyond = [
        (a - b, c - d)
        for a, b, c, d in zip(there.start, margin.start, margin.stop, there.stop, strict=True)
    ]
    return labels[box.slices_in(there)], shell(np.pad(labels, beyond), width)


def _added_up(parts: Iterable[_Compared], zero: _Compared) -> _Compared:
    """Add tables up, small ones first, so that none is sorted more than a few times."""
    sums: list[tuple[int, _Compared]] = []  # of 2**n parts, as the digits of a binary counter
    for part in parts:
        total, n = part, 0
        while sums and sums[-1][0] == n:
            total, n = sums.pop()[1] + total, n + 1
        sums.append((n, total))
    for _, total in reversed(sums):
        zero = total + zero
    return zero


def _pairs(predictions: Any, truths: Any, axes: str | None) -> list[_Pair]:
    """Open two volumes, two lists by position, or two folders by stem."""
    kinds = {_kind(predictions), _kind(truths)}
    if len(kinds) > 1:
        raise UsageError(
            f"the prediction is a {_kind(predictions)} and the truth a {_kind(truths)}; "
            "give two volumes, two folders or two lists"
        )
    if kinds == {"folder"}:
        sources = _by_stem(predictions, truths)
    elif kinds == {"list"}:
        sources = _by_position(predictions, truths)
    else:
        sources = [(_name(truths, 0), predictions, truths)]
    return [_Pair(name, _labels(p, axes), _labels(t, axes)) for name, p, t in sources]


def _kind(source: Any) -> str:
    if isinstance(source, list | tuple):
        return "list"
    return "folder" if _is_folder_of_images(source) else "volume"


def _is_folder_of_images(source: Any) -> bool:
    if not isinstance(source, str | os.PathLike) or not Path(source).is_dir():
        return False
    marks = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
    return not any(Path(source, mark).exists() for mark in marks)


def _by_position(predictions: Sequence[Any], truths: Sequence[Any]) -> list[tuple[str, Any, Any]]:
    if not predictions or len(predictions) != len(truths):
        raise UsageError(
            f"{len(predictions)} predictions and {len(truths)} true volumes; give one for each"
        )
    names = [_name(truth, i) for i, truth in enumerate(truths)]
    return list(zip(names, predictions, truths, strict=True))


def _by_stem(predictions: Any, truths: Any) -> list[tuple[str, Any, Any]]:
    left, right = _stems(predictions), _stems(truths)
    lonely = sorted(left.keys() ^ right.keys())
    if lonely:
        where = truths if lonely[0] in left else predictions
        raise UsageError(
            f"{len(lonely)} images are in one folder only, such as {lonely[0]!r}, which is not in "
            f"{where}; give the same names to both sides"
        )
    return [(stem, left[stem], right[stem]) for stem in sorted(left)]


def _stems(folder: str | os.PathLike[str]) -> Mapping[str, Path]:
    """Find the images in a folder; hidden files and other formats do not count."""
    found: dict[str, Path] = {}
    for path in sorted(Path(folder).iterdir()):
        stem = _stem(path.name)
        if path.name.startswith(".") or stem == path.name:
            continue
        if stem in found:
            raise UsageError(f"{found[stem]} and {path.name} have the same stem; keep one of them")
        found[stem] = path
    if not found:
        raise UsageError(f"{folder}: no images ({', '.join(SUFFIXES)}) in this folder")
    return found


def _name(source: Any, index: int) -> str:
    if isinstance(source, str | os.PathLike):
        return _stem(os.fspath(source).rstrip("/").rpartition("/")[2])
    return f"image {index}"


def _stem(name: str) -> str:
    """Return the name of a file without the ending of an image, or the whole name."""
    lower = name.lower()
    ending = next((end for end in SUFFIXES if lower.endswith(end)), "")
    return name[: len(name) - len(ending)]


def _labels(source: Any, axes: str | None) -> Volume:
    volume = source if isinstance(source, Volume) else open_volume(source, axes=axes)
    inside = None if volume.path is None else Path(volume.path, "labels")
    if not volume.is_labels and inside is not None and inside.is_dir():
        raise UsageError(f"{volume.path} is an image; give its labels: {inside}/NAME")
    return volume
