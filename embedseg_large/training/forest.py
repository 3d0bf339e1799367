"""Train a pixel classifier: a random forest for the classes of `three-class`, in seconds.

1. Annotated voxels (objects or background) are drawn from all images, equally many per class.
2. Their filtered intensities and classes form the model; trees are grown from them on use.
3. Thresholds are tuned on the validation images.

Masks may be complete, or strokes: voxels with the ignore label are not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray

from embedseg_large.errors import UsageError, VolumeError
from embedseg_large.geometry import Box
from embedseg_large.methods.of_model import scale_of
from embedseg_large.methods.registry import field_method
from embedseg_large.methods.three_class import BACKGROUND, BOUNDARY, BOUNDARY_WEIGHT, INTERIOR
from embedseg_large.network.forest import (
    CLASSES,
    CONTEXT,
    FOREST,
    SAMPLES,
    check_forest,
    feature_count,
    features,
)
from embedseg_large.network.model import Model
from embedseg_large.network.settings import ModelSettings
from embedseg_large.training.data.augment import AugmentSettings
from embedseg_large.training.data.objects import PART, parts
from embedseg_large.training.data.properties import measure
from embedseg_large.training.data.sources import Pair
from embedseg_large.training.objective import model_settings
from embedseg_large.training.options import DEFAULT_RECIPE, DeviceOptions
from embedseg_large.training.recipe_options import HardwareOptions
from embedseg_large.training.request import TrainRequest
from embedseg_large.training.settings import TrainSettings
from embedseg_large.training.tuning.knobs import with_tuned_knobs
from embedseg_large.training.validation import Example
from embedseg_large.volumes.intensity import intensity_ranges

DECODE = "three-class"
"""The method whose classes are learned, and which decodes them into instances."""
MOST_VOXELS = 2**25
"""Maximum size of the region learned from; of larger annotated regions, the middle is used."""
USED = {
    *("method", "seed", "pairing", "ndim", "reviewed"),
    *(field.name for field in (*fields(HardwareOptions), *fields(DeviceOptions))),
    *("validation", "validation_images", "validation_masks", "tune_thresholds"),
}
"""Options that a forest uses, or that ask for what it does anyway."""
PER_IMAGE = 4000
"""Maximum number of voxels of each class from one image."""


def train_forest(request: TrainRequest, examples: Sequence[Example]) -> Model:
    """Train a forest, and save it.

    Parameters
    ----------
    request
        Annotated images, the file of the model, and the seed, which chooses the voxels.
    examples
        Images to tune the thresholds on; if empty, the defaults are kept.

    Raises
    ------
    UsageError
        If objects or background are not annotated, or a library is missing.
    """
    model = fit_forest(request.sources.pairs, request.settings.seed)
    if examples:
        model = with_tuned_knobs(model, examples)
    model.save(request.out)
    return model


def refuse_useless(request: TrainRequest, augment: AugmentSettings | None) -> None:
    """Refuse options of which a forest makes no use.

    Raises
    ------
    UsageError
        Names them.
    """
    stated = {"start": request.start, "augment": augment}
    useless = [name for name, value in stated.items() if value is not None]
    changed = list(request.options.given())
    if request.options.recipe == DEFAULT_RECIPE:  # another one, which is refused, changes more
        changed += request.settings.given()
    useless += [name for name in changed if name not in USED]
    if useless:
        raise UsageError(
            f"{', '.join(useless)}: not supported by the method {FOREST}, which learns in "
            "seconds from one set of images; leave it out"
        )


def fit_forest(pairs: Sequence[Pair], seed: int) -> Model:
    """Choose the voxels from which a forest is grown."""
    check_forest()
    for pair in pairs:
        if min(pair.shape) < 2:
            raise VolumeError(f"{pair.name}: its shape is {pair.shape}; filters need two voxels")
    properties = measure(pairs)
    settings = replace(
        model_settings(properties, TrainSettings(method=DECODE), None),
        backbone=FOREST,
        context=(CONTEXT,) * properties.ndim,
    )
    rng = np.random.default_rng(seed)
    drawn, of_each, counts = zip(*(_drawn(pair, settings, rng) for pair in pairs), strict=True)
    samples, classes = np.concatenate(drawn), np.concatenate(of_each)
    at = _balanced(classes, rng)
    weights = {
        "samples": torch.from_numpy(samples[at]),
        "classes": torch.from_numpy(classes[at].astype(np.int64)),
        "odds": torch.from_numpy(_odds(np.sum(counts, axis=0))),
    }
    data = properties.as_dict()
    return Model(weights, settings, card={"training": {"method": FOREST}, "data": data})


def _drawn(
    pair: Pair, settings: ModelSettings, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.int64]]:
    """Draw voxels of an image.

    Returns
    -------
    Features ``(n, features)``; classes ``(n,)``; and the number of voxels of each class, and of
    those that are not annotated, ``(CLASSES + 1,)``.
    """
    box, unknown = _annotated(pair)
    labels = pair.labels_of(pair.mask.read(pair.mask_box(box)))
    method = field_method(DECODE, scale_of(settings))
    classes = method.targets(labels)["classes"].reshape(-1)
    places = [np.flatnonzero(classes == number) for number in range(CLASSES)]
    at = np.concatenate([rng.permutation(each)[:PER_IMAGE] for each in places])
    seen = _features_at(pair, box, np.stack(np.unravel_index(at, box.shape), axis=-1))
    counts = [each.size for each in places]
    return seen, classes[at], np.array([*counts, classes.size - sum(counts) + unknown])


def _features_at(pair: Pair, box: Box, places: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return the features ``(n, features)`` of a few voxels of a box, part by part.

    Filters see no farther than `CONTEXT`, so they are those of the whole box, bit for bit.
    """
    found = np.empty((len(places), feature_count(pair.ndim, pair.channels)), np.float32)
    ranges = intensity_ranges(pair.image)
    for part in Box.whole(box.shape).split(PART[pair.ndim]):
        inside = ((places >= part.start) & (places < part.stop)).all(axis=1)
        if inside.any():
            seen = part.grow((CONTEXT,) * pair.ndim).clip(box.shape)
            here = seen.shift(box.start)
            values = features(pair.normalised(here, pair.image.read(here), ranges))
            found[inside] = values[tuple((places[inside] - seen.start).T)]
    return found


def _annotated(pair: Pair) -> tuple[Box, int]:
    """Return the box around all annotated voxels, and the number of voxels outside of it.

    If the box is too large, its middle, and the number in the same proportion.
    """
    known = [np.zeros(length, bool) for length in pair.shape]
    for origin, labels in parts(pair, Box.whole(pair.shape)):
        for axis, (first, seen) in enumerate(zip(origin, known, strict=True)):
            others = tuple(other for other in range(pair.ndim) if other != axis)
            seen[first : first + labels.shape[axis]] |= (labels >= 0).any(axis=others)
    if not known[0].any():
        return Box.whole(pair.shape), 0
    ends = [np.flatnonzero(seen)[[0, -1]] for seen in known]
    start, last = np.array(ends).T
    stop = last + 1
    factor = min(1.0, (MOST_VOXELS / float(np.prod(stop - start))) ** (1 / pair.ndim))
    size = np.maximum(1, (factor * (stop - start)).astype(int))
    first = (start + stop - size) // 2
    box = Box(tuple(first.tolist()), tuple((first + size).tolist()))
    return box, round((prod(pair.shape) / prod((stop - start).tolist()) - 1) * box.size)


def _odds(counts: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return how often classes occur, relative to the samples, which are equally many of each.

    Where most voxels are not annotated, the strokes of a user say nothing about it: then all
    classes count alike. The boundary counts more, as in the loss of networks.

    Parameters
    ----------
    counts
        ``(CLASSES + 1,)``: voxels of each class, and those that are not annotated.
    """
    *known, unknown = counts.tolist()
    shares = np.array(known) / sum(known) if sum(known) > unknown else np.full(CLASSES, 1 / CLASSES)
    shares[BOUNDARY] *= BOUNDARY_WEIGHT
    return shares.astype(np.float32)


def _balanced(classes: NDArray[np.int8], rng: np.random.Generator) -> NDArray[np.intp]:
    """Draw equally many samples of each class, with repetition if there are few."""
    places = [np.flatnonzero(classes == number) for number in range(CLASSES)]
    for number, what in ((BACKGROUND, "background"), (INTERIOR, "inside of objects")):
        if not places[number].size:
            raise UsageError(f"no voxel is annotated as {what}; a forest learns from both")
    there = [each for each in places if each.size]
    counts = np.diff(np.linspace(0, SAMPLES, len(there) + 1).astype(int))
    drawn = [rng.choice(p, n, replace=p.size < n) for p, n in zip(there, counts, strict=True)]
    return np.concatenate(drawn)
