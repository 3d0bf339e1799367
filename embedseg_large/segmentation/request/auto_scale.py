"""The scale of an image that suits a model best, found by predicting a sample at several scales.

1. A few tiles with many bright voxels are chosen from an evenly spread coarse sample.
2. They are predicted at six scales, as if objects were `FACTORS` times as wide as the model's, both
   unchanged and rotated by 180°, and clustered.
3. The score of a scale is its consistency: the agreement of the two orientations, times the mean
   agreement with the next smaller and the next larger scale. Agreement is the sum of the IoU of
   instances that match, over the mean number of instances. Correct labels resemble each other,
   while there are many ways to
      be wrong: pieces, clumps, or missing objects.

The scale is a function of image, model and thresholds. `benchmarks/auto_scale.py` compares it with
the best of the six on images with known labels; `docs/design/auto_scale.md` has the results.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from math import ceil, log, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.cluster import cluster
from embedseg_large.documents import parse_json
from embedseg_large.embedding import dequantise
from embedseg_large.errors import UnreachableError, UsageError
from embedseg_large.geometry import Box
from embedseg_large.labels.provenance import is_choice
from embedseg_large.segmentation.request.scale import resampling_for
from embedseg_large.segmentation.segmenters.loading import place
from embedseg_large.segmentation.segmenters.protocol import Network
from embedseg_large.segmentation.stages.job import Foreground
from embedseg_large.tiling.resampling import Resampling
from embedseg_large.volumes.intensity import PERCENTILES
from embedseg_large.volumes.volume import Volume

AUTO = "auto"
"""Passed instead of a diameter: find the scale automatically."""
STEP = 1.45
STEPS = (-2, -1, 0, 1, 2, 3)
FACTORS = tuple(STEP**k for k in STEPS)
"""Diameters to try, in units of the diameter of the model's objects."""
TILE = {2: (384, 384), 3: (48, 112, 112)}
"""Voxels of the image that are sampled in one place; fewer if magnified."""
PLACES = {2: 3, 3: 2}
"""Number of places that are sampled."""
PROBE = {2: (128, 128), 3: (8, 64, 64)}
PROBES = {2: 9, 3: 5}
"""Number of coarse samples along each axis."""
BRIGHT = 0.3
"""Fraction of the sample's range above which a voxel may belong to an object."""
SAME = 1.2
"""Grids whose sizes differ by less than this along every axis count as equal."""
TIMEPOINTS = 8
"""Maximum number of timepoints searched for one that is not empty."""

_MATCH = 0.5  # IoU


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleTrial:
    """A scale that was tried; diameters are along y and x, in voxels of the image."""

    diameter: float | None
    """Assumed width of the objects; None: the image as it is, without resampling."""
    objects: int
    """Instances found in the sample."""
    found: float | None
    """Median diameter of a ball (3D) or disc (2D) of equal size; None if there are none."""
    views: float
    """Agreement of the two orientations, 0 to 1."""
    neighbours: float
    """Mean agreement with the adjacent scales, 0 to 1; a scale at an end has only one."""

    @property
    def score(self) -> float:
        """How consistent the scale is, 0 to 1."""
        return self.views * self.neighbours


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleChoice:
    """The scale that was chosen, and why."""

    diameter: float | None
    """Value for `object_diameter` of `segment`; None: no resampling."""
    model_diameter: float
    trials: tuple[ScaleTrial, ...]
    places: tuple[Box, ...]
    """The sampled places, in voxels of the level."""
    timepoint: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing consistent was found at any scale."""
        return all(t.score == 0 for t in self.trials)

    @property
    def sentence(self) -> str:
        """The choice, in words."""
        return described_scale(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """The choice as values that JSON can hold."""
        return {
            "asked": AUTO,
            "chosen": self.diameter,
            "model_diameter": self.model_diameter,
            "nothing_found": self.is_empty,
            "places": [str(p) for p in self.places],
            "timepoint": self.timepoint,
            "trials": [asdict(t) | {"score": t.score} for t in self.trials],
        }


def described_scale(said: Mapping[str, Any]) -> str:
    """Describe the choice, from `ScaleChoice.as_dict`."""
    if said["nothing_found"]:
        return "nothing consistent was found at any scale; the image is taken as it is"
    if said["chosen"] is None:
        return "the image as it is: no other scale is more consistent"
    return f"as if objects were {said['chosen']:.3g} voxels wide"


def table_of(said: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the scales that were tried, from `ScaleChoice.as_dict`."""
    heads = ["scale", "objects as wide as", "found", "median", "views", "neighbours", "score"]
    rows = []
    for trial in said["trials"]:
        chosen = "chosen" if trial["diameter"] == said["chosen"] else ""
        width = trial["diameter"]
        rows.append(
            [
                chosen,
                f"{said['model_diameter']:.3g} (as it is)" if width is None else f"{width:.3g}",
                f"{trial['objects']:,}",
                "" if trial["found"] is None else f"{trial['found']:.3g}",
                *(f"{trial[name]:.2f}" for name in ("views", "neighbours", "score")),
            ]
        )
    return heads, rows


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleThresholds:
    """Thresholds that determine which instances are found."""

    min_object_size: int | None = None
    """In voxels of the image; None: the model's, in voxels of its grid."""
    foreground: float = 0.5
    seed: float | None = None
    margin: float | None = None


def choose_scale(
    volume: Volume,
    network: Network,
    *,
    thresholds: ScaleThresholds | None = None,
    foreground: Foreground | None = None,
    intensity: tuple[float, float] | None = None,
    within: Box | None = None,
    timepoints: Sequence[int | None] = (None,),
) -> ScaleChoice:
    """Choose the scale at which a model is most self-consistent.

    Parameters
    ----------
    volume
        The level to segment.
    network
        The model.
    thresholds
        Thresholds of the run; missing ones are the model's for one pass.
    foreground
        Where to look; None: everywhere.
    intensity
        Intensities that become 0 and 1; None: percentiles of the sample.
    within
        Part of the volume to look at; None: all of it.
    timepoints
        Timepoints to look at, up to the first that is not empty.

    Raises
    ------
    UsageError
        If the model does not know the diameter of its objects, or cannot be compared in this way.
    """
    check_model(network)
    on_cpu = place(network, device="cpu", dtype="float32")  # the same everywhere
    thresholds = thresholds or ScaleThresholds()
    within = within or Box.whole(volume.spatial_shape)
    sample = None
    spread = np.unique(np.linspace(0, len(timepoints) - 1, TIMEPOINTS).astype(int))
    for timepoint in (timepoints[i] for i in spread):
        sample = _sample(volume, within, foreground or Foreground(), intensity, timepoint)
        if sample is not None:
            break
    grids = _grids(volume, network)
    assert network.object_diameter is not None
    if sample is None:
        empty = [
            ScaleTrial(diameter=d, objects=0, found=None, views=0.0, neighbours=0.0)
            for _, d, _ in grids
        ]
        return _chosen(network.object_diameter, empty, (), None)
    looks = [
        [_look(on_cpu, image, zoom, thresholds) for image in sample.images] for *_, zoom in grids
    ]
    trials = _compare([step for step, *_ in grids], [d for _, d, _ in grids], looks, volume.ndim)
    return _chosen(network.object_diameter, trials, sample.boxes, sample.timepoint)


def check_model(network: Network) -> None:
    """Refuse a network that cannot be compared with itself at other scales."""
    if network.object_diameter is None:
        raise UsageError(
            "the model does not know the diameter of its training objects, so no scale can be "
            "found by itself; pass a level, or voxel-size"
        )


def recorded(folder: Any, name: str, key: str | None) -> dict[str, Any] | None:
    """The choice of an earlier attempt or run; None if there is none, or it had other inputs.

    Parameters
    ----------
    folder, name
        A `Folder`, and the file in it that holds facts.
    key
        Hash of the required inputs, see `key_of`; None: any.
    """
    try:
        about = parse_json(folder.read(name))
        said = about.get("object_diameter") or about["facts"]["object_diameter"]
    except UnreachableError:
        raise
    except Exception:  # any other stored content is refused where it is used
        return None
    return said if is_choice(said) and key in (None, said.get("key")) else None


def key_of(*parts: Any) -> str:
    """Hash the inputs of a choice."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    boxes: tuple[Box, ...]
    images: list[tuple[NDArray[np.float32], NDArray[np.bool_] | None]]
    """Normalised ``(channels, *box)``, and which voxels are inside the mask."""
    timepoint: int | None


def _grids(volume: Volume, network: Network) -> list[tuple[int, float | None, tuple[float, ...]]]:
    """List step, diameter and zoom of each scale, leaving out those too far from the image's."""
    assert network.object_diameter is not None
    grids: list[tuple[int, float | None, tuple[float, ...]]] = []
    for step, factor in zip(STEPS, FACTORS, strict=True):
        diameter = network.object_diameter * factor
        if step == 0:
            grids.append((0, None, (1.0,) * volume.ndim))
        try:
            zoom = resampling_for(volume, network, diameter).zoom
        except UsageError:
            continue
        if step or max(abs(log(z)) for z in zoom) > log(SAME):
            grids.append((step, diameter, zoom))
    return grids


def _sample(
    volume: Volume,
    within: Box,
    foreground: Foreground,
    intensity: tuple[float, float] | None,
    timepoint: int | None,
) -> _Sample | None:
    """Choose the tiles to sample; None if there is nothing to see."""
    probes = []
    for at in _spread(within, PROBES[volume.ndim], PROBE[volume.ndim]):
        inside = foreground.inside(at, volume.spatial_shape, timepoint)
        if inside is None or inside.any():
            probes.append((at, _read(volume, at, timepoint)))
    if not probes:
        return None
    ranges = _ranges([p for _, p in probes], intensity)
    if ranges is None:
        return None
    shares = [float((_normal(p, ranges).max(axis=0) > BRIGHT).mean()) for _, p in probes]
    boxes: list[Box] = []
    for i in np.argsort(-np.array(shares), kind="stable"):
        box = _around(probes[int(i)][0], TILE[volume.ndim], within)
        if shares[int(i)] > 0 and all(not box.intersect(b).size for b in boxes):
            boxes.append(box)
        if len(boxes) == PLACES[volume.ndim]:
            break
    if not boxes:
        return None
    images = [
        (
            _normal(_read(volume, b, timepoint), ranges),
            foreground.inside(b, volume.spatial_shape, timepoint),
        )
        for b in boxes
    ]
    return _Sample(tuple(boxes), images, timepoint)


def _read(volume: Volume, box: Box, timepoint: int | None) -> NDArray[np.float32]:
    """Read voxels ``(channels, *box)``, with NaN replaced by 0."""
    at = timepoint if volume.timepoint is None else None
    voxels = volume.read(box, at).reshape(-1, *box.shape).astype(np.float32)
    return np.nan_to_num(voxels, nan=0.0, posinf=0.0, neginf=0.0)


def _spread(within: Box, count: int, size: Sequence[int]) -> Iterator[Box]:
    """Yield small boxes, evenly spread, in raster order; the whole volume if it is small."""
    axes = [
        sorted({a + (2 * i + 1) * (b - a) // (2 * count) for i in range(count)})
        for a, b in zip(within.start, within.stop, strict=True)
    ]
    seen = set[Box]()
    for voxel in product(*axes):
        box = _around(Box(voxel, tuple(v + 1 for v in voxel)), size, within)
        if box not in seen:
            seen.add(box)
            yield box


def _around(middle: Box, size: Sequence[int], within: Box) -> Box:
    """Return a box of at most `size` around `middle`, shifted to lie inside `within`."""
    axes = list(zip(middle.start, middle.stop, size, within.start, within.stop, strict=True))
    start = [max(low, min((a + b - n) // 2, high - n)) for a, b, n, low, high in axes]
    stop = [min(s + n, high) for s, (_, _, n, _, high) in zip(start, axes, strict=True)]
    return Box(tuple(start), tuple(stop))


def _ranges(
    probes: Sequence[NDArray[np.float32]], given: tuple[float, float] | None
) -> list[tuple[float, float]] | None:
    """Find the intensities of each channel that become 0 and 1; None if the sample is constant."""
    if given is not None:
        return [given] * len(probes[0])
    found = []
    for channel in range(len(probes[0])):
        values = np.concatenate([p[channel].ravel() for p in probes])
        values = values.view(np.uint8) if values.dtype == np.bool_ else values
        held = values[values != 0]  # exact zeros were usually never imaged
        low, high = np.percentile(held if held.size else values, PERCENTILES)
        if low == high:
            low, high = np.percentile(values, PERCENTILES)
        found.append((float(low), float(high)))
    return found if all(low < high for low, high in found) else None


def _normal(
    voxels: NDArray[np.float32], ranges: Sequence[tuple[float, float]]
) -> NDArray[np.float32]:
    column = (-1, *(1,) * (voxels.ndim - 1))
    low, high = (np.array(v, np.float32).reshape(column) for v in zip(*ranges, strict=True))
    normal: NDArray[np.float32] = (voxels - low) / (high - low)
    return normal


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """Labels of a place at one scale, in voxels of the image; only of the resampled part."""

    part: Box
    labels: NDArray[np.uint32]
    turned: NDArray[np.uint32]


def _look(
    network: Network,
    seen: tuple[NDArray[np.float32], NDArray[np.bool_] | None],
    zoom: Sequence[float],
    thresholds: ScaleThresholds,
) -> _Trial:
    image, inside = seen
    whole = Box.whole(image.shape[1:])
    size = [ceil(n / max(1.0, z)) for n, z in zip(whole.shape, zoom, strict=True)]
    part = _around(whole, size, whole)
    grid = Resampling.by(part.shape, zoom)
    target = Box.whole(grid.target)
    small = grid.image(image[(slice(None), *part.slices)], target)
    views = []
    for turn in (False, True):
        found = _labels(network, _turned(small) if turn else small, prod(zoom), thresholds)
        back = grid.labels(_turned(found) if turn else found, Box.whole(part.shape))
        if inside is not None:
            back = np.where(inside[part.slices], back, 0)
        views.append(back)
    return _Trial(part, *views)


def _turned(array: NDArray[Any]) -> NDArray[Any]:
    """Rotate by 180° in the plane of y and x, an orientation that suits every model."""
    return np.ascontiguousarray(array[..., ::-1, ::-1])


def _labels(
    network: Network, image: NDArray[np.float32], magnified: float, thresholds: ScaleThresholds
) -> NDArray[np.uint32]:
    stored = network.predict_tile(image, Box.whole(image.shape[1:]), "none")
    seed, margin = network.thresholds_of("none")
    size = network.min_object_size
    if thresholds.min_object_size is not None:
        size = round(thresholds.min_object_size * magnified)
    return cluster(
        dequantise(stored),
        size,
        foreground=thresholds.foreground,
        seed=seed if thresholds.seed is None else thresholds.seed,
        margin=margin if thresholds.margin is None else thresholds.margin,
    )


def _compare(
    steps: Sequence[int],
    diameters: Sequence[float | None],
    looks: Sequence[Sequence[_Trial]],
    ndim: int,
) -> list[ScaleTrial]:
    """Compute the agreement of each scale with itself and with adjacent scales."""
    trials = []
    for step, diameter, own in zip(steps, diameters, looks, strict=True):
        beside = []
        for side in (step - 1, step + 1):
            at = [o for s, o in zip(steps, looks, strict=True) if s == side]
            each = [agreement([_common(a, b) for a, b in zip(own, o, strict=True)]) for o in at]
            beside.append(float(np.mean(each)) if each else 0.0)
        sizes = np.concatenate([np.bincount(o.labels.ravel())[1:] for o in own])
        sizes = sizes[sizes > 0]
        trials.append(
            ScaleTrial(
                diameter=diameter,
                objects=int(sizes.size),
                found=_width(float(np.median(sizes)), ndim) if sizes.size else None,
                views=agreement([(o.labels, o.turned) for o in own]),
                neighbours=sum(beside) / 2,
            )
        )
    return trials


def _width(size: float, ndim: int) -> float:
    """Return the diameter of a ball or disc of some size."""
    return float((6 * size / np.pi) ** (1 / 3) if ndim == 3 else (4 * size / np.pi) ** 0.5)


def _common(a: _Trial, b: _Trial) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return the labels of two scales in their common part."""
    part = a.part.intersect(b.part)
    return a.labels[part.slices_in(a.part)], b.labels[part.slices_in(b.part)]


def agreement(pairs: Sequence[tuple[NDArray[np.uint32], NDArray[np.uint32]]]) -> float:
    """Sum of the IoU of instances that match, over the mean number of instances; 0 without any.

    Parameters
    ----------
    pairs
        Two labellings of each image. Instances match if their IoU is above one half.
    """
    matched = instances = 0.0
    for a, b in pairs:
        sizes = [np.bincount(side.ravel()) for side in (a, b)]
        instances += sum(int(np.count_nonzero(s[1:])) for s in sizes)
        pair = a.astype(np.int64) * sizes[1].size + b
        found, common = np.unique(pair[(a > 0) & (b > 0)], return_counts=True)
        i, j = np.divmod(found, sizes[1].size)
        iou = common / (sizes[0][i] + sizes[1][j] - common)
        matched += float(iou[iou > _MATCH].sum())
    return 2 * matched / instances if instances else 0.0


def _chosen(
    known: float, trials: Sequence[ScaleTrial], places: tuple[Box, ...], timepoint: int | None
) -> ScaleChoice:
    """Return the best trial; of equally good ones, that nearest to the original scale."""
    best = max(trials, key=lambda t: (t.score, -abs(log((t.diameter or known) / known))))
    diameter = best.diameter if best.score > 0 else None
    return ScaleChoice(
        diameter=None if diameter is None else round(diameter, 2),
        model_diameter=known,
        trials=tuple(
            replace(t, diameter=None if t.diameter is None else round(t.diameter, 2))
            for t in trials
        ),
        places=places,
        timepoint=timepoint,
    )
