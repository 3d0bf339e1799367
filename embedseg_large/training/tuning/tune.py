"""Find the thresholds of an existing model on annotated images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.clean import CleanSettings
from embedseg_large.clustering.settings import ClusteringSettings
from embedseg_large.errors import UsageError
from embedseg_large.evaluation.contingency import Layers
from embedseg_large.geometry import Box
from embedseg_large.network.checkpoint import load_model
from embedseg_large.network.model import Model
from embedseg_large.network.settings import Thresholds
from embedseg_large.training.data.resample import nearest
from embedseg_large.training.data.sources import Pair, find_pairs
from embedseg_large.training.tuning.thresholds import sweep
from embedseg_large.training.validation import Example
from embedseg_large.training.whole import whole_stored
from embedseg_large.volumes.intensity import intensity_ranges


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """Result for one test-time augmentation."""

    mode: str
    """none, 4, 8, 16 or 48."""
    before: Thresholds
    """The model's thresholds."""
    after: Thresholds
    """The best thresholds."""
    ap_before: dict[float, float]
    """AP before, at each IoU threshold, mean over the sets of images."""
    ap_after: dict[float, float]
    """AP after, likewise."""
    found: tuple[int, ...]
    """Instances of each set with the best thresholds."""

    def as_dict(self) -> dict[str, Any]:
        """The result as values that JSON can hold."""
        return {
            "before": self.before._asdict() | {"ap": _by_text(self.ap_before)},
            "after": self.after._asdict() | {"ap": _by_text(self.ap_after)},
            "found": list(self.found),
        }


def tune(
    model: Model | str | os.PathLike[str],
    sets: Sequence[tuple[Any, Any]],
    *,
    tta: Sequence[str] | None = None,
    keep_largest_piece: bool | None = None,
    fill_holes: bool | None = None,
    pairing: Mapping[str, Any] | None = None,
    watcher: Callable[[str], None] = lambda text: None,  # noqa: ARG005
) -> tuple[Model, list[Tuned]]:
    """Find a model's seed and margin, for one pass and for test-time augmentations.

    Parameters
    ----------
    model
        The model, a bundled name, or a file.
    sets
        Images and masks of each set, as for `find_pairs`; sets have equal weight, regardless of
        size.
    tta
        Augmentations, besides one pass; default: what the model uses by default. None of them may
        find fewer instances than one pass, see `embedseg_large.training.tuning.thresholds`.
    keep_largest_piece, fill_holes
        Whether instances are cleaned, now and by default in the written model; None: the model's
        setting.
    pairing
        Additional arguments of `find_pairs`.
    watcher
        Called with a text for each image.

    Returns
    -------
    model, found
        The model with these thresholds and the result in its card, and the result.

    Raises
    ------
    UsageError, VolumeError
        If the images or the augmentations cannot be used; raised before any computation.
    """
    loaded = load_model(model) if isinstance(model, str | os.PathLike) else model
    channel = {"channel": None} if loaded.channels > 1 else {}
    options = {"ndim": loaded.ndim, **channel, **(pairing or {})}
    panel = [find_pairs(images, masks, **options) for images, masks in sets]
    for pair in (pair for pairs in panel for pair in pairs):
        _check_channels(pair, loaded)
        pair.check_mask()
    modes = list(dict.fromkeys(loaded.tta_mode(m) for m in ("none", *(tta or (True,)))))
    settings = _cleaned(loaded, keep_largest_piece, fill_holes)
    found: list[Tuned] = []
    for mode in modes:  # one pass first: no augmentation may find fewer
        least = found[0].found if found else None
        found.append(_tuned(loaded, panel, mode, settings, watcher, least))
    best = {one.mode: one.after for one in found}
    names = [[pair.name for pair in pairs] for pairs in panel]
    told = {"images": names, "tta": {one.mode: one.as_dict() for one in found}}
    tuned = Model(
        loaded.weights,
        replace(
            loaded.settings.with_thresholds(best),
            keep_largest_piece=settings.keep_largest_piece,
            fill_holes=settings.fill_holes,
        ),
        card=loaded.card | {"thresholds_from": told},
        device=loaded.device,
    )
    return tuned, found


def tuned_on(model: Model, examples: Sequence[Example]) -> Model:
    """Choose the thresholds of a newly trained model.

    Parameters
    ----------
    model
        The model.
    examples
        The validation examples; sets have equal weight.

    Returns
    -------
    The model with a seed and a margin for one pass and for its default test-time augmentation.
    """
    sets: dict[str, list[Example]] = {}
    for example in examples:
        sets.setdefault(example.set, []).append(example)
    modes = dict.fromkeys(model.tta_mode(tta) for tta in ("none", True))
    cleaning = _cleaned(model, None, None)
    rule = ClusteringSettings(min_object_size=model.min_object_size, reach=model.reach)
    best: dict[str, Thresholds] = {}
    least: tuple[int, ...] = (0,) * len(sets)
    for mode in modes:
        found = [_stored(model, several, mode) for several in sets.values()]
        swept = sweep(found, rule, cleaning, more=[model.thresholds_of(mode)])
        best[mode] = swept.best_with(least)
        if mode == "none":
            least = swept.found(best[mode])
    settings = model.settings.with_thresholds(best)
    return Model(model.weights, settings, card=model.card, device=model.device)


def _stored(
    model: Model, examples: Sequence[Example], mode: str
) -> Iterator[tuple[NDArray[np.float16], Layers]]:
    """Predictions and truth of each example, both on the model's grid."""
    for example in examples:
        grid, image, truth = example.resampling(model), example.image(), example.layers()
        if not grid.is_identity:
            image = grid.image(image, Box.whole(grid.target))
            truth = [nearest(layer, grid.target) for layer in truth]
        yield whole_stored(model, image, mode), truth


def is_rounded(model: Model) -> bool:
    """Whether all weights are float16 numbers, so that a file of half the size suffices."""
    kernels = (t for t in model.weights.values() if t.ndim > 1)
    return all(bool((t.half().float() == t).all()) for t in kernels)


def _cleaned(model: Model, pieces: bool | None, holes: bool | None) -> CleanSettings:
    own_pieces, own_holes = model.cleaning
    return CleanSettings(
        keep_largest_piece=own_pieces if pieces is None else pieces,
        fill_holes=own_holes if holes is None else holes,
    )


def _tuned(
    model: Model,
    panel: Sequence[Sequence[Pair]],
    mode: str,
    cleaning: CleanSettings,
    watcher: Callable[[str], None],
    least: tuple[int, ...] | None,
) -> Tuned:
    sets = [_predicted(model, pairs, mode, watcher) for pairs in panel]
    rule = ClusteringSettings(min_object_size=model.min_object_size, reach=model.reach)
    before = model.thresholds_of(mode)
    swept = sweep(sets, rule, cleaning, more=[before])
    after = swept.best if least is None else swept.best_with(least)
    return Tuned(
        mode=mode,
        before=before,
        after=after,
        ap_before=swept.ap(before),
        ap_after=swept.ap(after),
        found=swept.found(after),
    )


def _predicted(
    model: Model, pairs: Sequence[Pair], mode: str, watcher: Callable[[str], None]
) -> Iterator[tuple[NDArray[np.float16], Layers]]:
    """Predictions and truth of each image, one at a time."""
    for pair in pairs:
        watcher(f"{pair.name}, test-time augmentation {mode}")
        example = Example.whole(pair, intensity_ranges(pair.image))
        yield whole_stored(model, example.image(), mode), example.layers()


def _check_channels(pair: Pair, model: Model) -> None:
    channels = pair.image.n_channels if pair.image.channel is None else 1
    if channels != model.channels:
        raise UsageError(
            f"{pair.name}: {channels} channel(s), the model takes {model.channels}; "
            "use matching images, or choose a channel (--channel)"
        )


def _by_text(ap: Mapping[float, float]) -> dict[str, float]:
    return {f"{iou:g}": round(value, 4) for iou, value in ap.items()}
