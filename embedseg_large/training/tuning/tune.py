"""Find the thresholds of an existing model on annotated images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.clean import CleanSettings
from embedseg_large.clustering.settings import ClusteringSettings
from embedseg_large.errors import UsageError
from embedseg_large.evaluation.contingency import Layers
from embedseg_large.geometry import Box
from embedseg_large.methods.registry import check_usable
from embedseg_large.network.checkpoint import load_model
from embedseg_large.network.model import Model
from embedseg_large.network.settings import EMBEDSEG, ModelSettings, Thresholds
from embedseg_large.training.data.resample import voted
from embedseg_large.training.data.sources import Pair, find_pairs
from embedseg_large.training.tuning.knobs import Setting, named, own_setting, sweep_knobs
from embedseg_large.training.tuning.thresholds import Sweep, Tally, sweep
from embedseg_large.training.validation import Example
from embedseg_large.training.whole import whole_stored
from embedseg_large.volumes.intensity import intensity_ranges

T = TypeVar("T")

Look = Callable[[str], Sequence[Iterable[Example]]]
"""Called with an augmentation; returns the sets of images to score it on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """Result for one test-time augmentation."""

    mode: str
    """none, 4, 8, 16 or 48."""
    before: Mapping[str, float]
    """The model's thresholds by name: ``seed`` and ``margin``, or the knobs of another method."""
    after: Mapping[str, float]
    """The best thresholds, likewise."""
    ap_before: dict[float, float]
    """AP before, at each IoU threshold, mean over the sets of images."""
    ap_after: dict[float, float]
    """AP after, likewise."""
    found: tuple[int, ...]
    """Instances of each set with the best thresholds."""

    def as_dict(self) -> dict[str, Any]:
        """The result as values that JSON can hold."""
        return {
            "before": dict(self.before) | {"ap": _by_text(self.ap_before)},
            "after": dict(self.after) | {"ap": _by_text(self.ap_after)},
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

    Models of other methods have knobs in their place, the same for all augmentations.

    Parameters
    ----------
    model
        The model, a bundled name, or a file.
    sets
        Images and masks of each set, as for `find_pairs`; sets have equal weight, regardless of
        size.
    tta
        Augmentations, besides one pass; default: what the model uses by default. None of them may
        find fewer instances than one pass, see `embedseg_large.training.tuning.thresholds`. For
        another method: the one with which the knobs are found.
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
    check_usable(loaded.settings.method)
    modes = _modes(loaded, tta)
    channel = {"channel": None} if loaded.channels > 1 else {}
    options = {"ndim": loaded.ndim, **channel, **(pairing or {})}
    panel = [find_pairs(images, masks, **options) for images, masks in sets]
    for pair in (pair for pairs in panel for pair in pairs):
        _check_channels(pair, loaded)
        pair.check_mask()
    cleaning = _cleaned(loaded, keep_largest_piece, fill_holes)
    tuned_by = _with_thresholds if loaded.settings.method == EMBEDSEG else _with_knobs
    settings, found = tuned_by(
        loaded, modes, cleaning, lambda mode: [_examples(pairs, mode, watcher) for pairs in panel]
    )
    names = [[pair.name for pair in pairs] for pairs in panel]
    told = {"images": names, "tta": {one.mode: one.as_dict() for one in found}}
    tuned = Model(
        loaded.weights,
        replace(settings, **asdict(cleaning)),
        card=loaded.card | {"thresholds_from": told},
        device=loaded.device,
    )
    return tuned, found


def _modes(model: Model, tta: Sequence[str] | None) -> list[str]:
    """Return the augmentations to find thresholds for: one pass first.

    Raises
    ------
    UsageError
        If the model cannot use one, or has no thresholds of its own for each of several.
    """
    asked = list(dict.fromkeys(model.tta_mode(mode) for mode in tta or (True,)))
    if model.settings.method == EMBEDSEG:
        return list(dict.fromkeys(["none", *asked]))
    if len(asked) > 1:
        raise UsageError(
            f"test-time augmentations {', '.join(asked)}: models of the method "
            f"{model.settings.method} have the same thresholds for all; pass one of them"
        )
    return asked


def _with_thresholds(
    model: Model, modes: Sequence[str], cleaning: CleanSettings, look: Look
) -> tuple[ModelSettings, list[Tuned]]:
    """Find seed and margin of EmbedSeg for each augmentation."""
    found: list[Tuned] = []
    best: dict[str, Thresholds] = {}
    for mode, swept, after in _swept(model, modes, cleaning, look):
        best[mode] = after
        found.append(_compared(mode, swept, model.thresholds_of(mode), after, Thresholds._asdict))
    return model.settings.with_thresholds(best), found


def _with_knobs(
    model: Model, modes: Sequence[str], cleaning: CleanSettings, look: Look
) -> tuple[ModelSettings, list[Tuned]]:
    """Find the knobs of another method, for all augmentations."""
    [mode] = modes
    swept = sweep_knobs(model, look(mode), mode, cleaning)
    before, after = own_setting(model, swept.method), swept.best
    settings = replace(model.settings, knobs=named(swept.method, after))

    def told(at: Setting) -> dict[str, float]:
        return dict(named(swept.method, at))

    return settings, [_compared(mode, swept, before, after, told)]


def _compared(
    mode: str, swept: Tally[T], before: T, after: T, told: Callable[[T], Mapping[str, float]]
) -> Tuned:
    return Tuned(
        mode=mode,
        before=told(before),
        after=told(after),
        ap_before=swept.ap(before),
        ap_after=swept.ap(after),
        found=swept.found(after),
    )


def _swept(
    model: Model, modes: Iterable[str], cleaning: CleanSettings, look: Look
) -> Iterator[tuple[str, Sweep, Thresholds]]:
    """Yield the best seed and margin of each augmentation, of which the first is one pass.

    None of the others may find fewer instances.
    """
    rule = ClusteringSettings(min_object_size=model.min_object_size, reach=model.reach)
    least: tuple[int, ...] | None = None
    for mode in modes:
        sets = [_stored(model, examples, mode) for examples in look(mode)]
        swept = sweep(sets, rule, cleaning, more=[model.thresholds_of(mode)])
        best = swept.best if least is None else swept.best_with(least)
        least = least or swept.found(best)
        yield mode, swept, best


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
    swept = _swept(model, modes, _cleaned(model, None, None), lambda _: list(sets.values()))
    best = {mode: thresholds for mode, _, thresholds in swept}
    settings = model.settings.with_thresholds(best)
    return Model(model.weights, settings, card=model.card, device=model.device)


def _stored(
    model: Model, examples: Iterable[Example], mode: str
) -> Iterator[tuple[NDArray[np.float16], Layers]]:
    """Predictions and truth of each example, both on the model's grid."""
    for example in examples:
        grid, image, truth = example.resampling(model), example.image(), example.layers()
        if not grid.is_identity:
            image = grid.image(image, Box.whole(grid.target))
            truth = [voted(layer, grid.target) for layer in truth]
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


def _examples(
    pairs: Sequence[Pair], mode: str, watcher: Callable[[str], None]
) -> Iterator[Example]:
    """Announce and yield each image, one at a time."""
    for pair in pairs:
        watcher(f"{pair.name}, test-time augmentation {mode}")
        yield Example.whole(pair, intensity_ranges(pair.image))


def _check_channels(pair: Pair, model: Model) -> None:
    channels = pair.image.n_channels if pair.image.channel is None else 1
    if channels != model.channels:
        raise UsageError(
            f"{pair.name}: {channels} channel(s), the model takes {model.channels}; "
            "use matching images, or choose a channel (--channel)"
        )


def _by_text(ap: Mapping[float, float]) -> dict[str, float]:
    return {f"{iou:g}": round(value, 4) for iou, value in ap.items()}
