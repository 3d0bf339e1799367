"""Train a model: the public function."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embedseg_large.errors import UsageError
from embedseg_large.network.checkpoint import load_model
from embedseg_large.network.model import Model
from embedseg_large.training.augment import AugmentSettings
from embedseg_large.training.crops import find_centers
from embedseg_large.training.dataset import CropDataset
from embedseg_large.training.properties import measure
from embedseg_large.training.settings import TrainSettings
from embedseg_large.training.sources import Pair, find_pairs
from embedseg_large.training.trainer import Trainer, TrainWatcher


def train(
    images: Any,
    masks: Any = None,
    *,
    out: str | os.PathLike[str],
    ndim: int | None = None,
    validation: float = 0.15,
    validation_images: Any = None,
    validation_masks: Any = None,
    start: str | os.PathLike[str] | Model | None = None,
    resume: bool = False,
    augment: AugmentSettings | None = None,
    center: str = "medoid",
    crop: Sequence[int] | None = None,
    device: str = "cpu",
    watcher: TrainWatcher | None = None,
    pairing: dict[str, Any] | None = None,
    **settings: Any,
) -> Model:
    """Train a model on annotated images.

    Parameters
    ----------
    images, masks
        Folders, or lists of paths or arrays; see `embedseg_large.training.sources.find_pairs`.
    out
        File of the model. What training keeps on the way is in the folder ``OUT.training``.
    ndim
        2 or 3, where it should be checked.
    validation
        Fraction of the images to validate on, drawn by the seed; 0: none.
    validation_images, validation_masks
        Images to validate on instead.
    start
        A model to fine-tune; its pitch and crop units are kept.
    resume
        Go on with the training that `out` already has.
    augment
        What happens to crops; default: turns and flips.
    center
        medoid, approximate-medoid or centroid.
    crop
        Shape of a crop; default: from the objects.
    device
        ``cpu`` or ``cuda``.
    watcher
        Is told of batches and epochs.
    pairing
        More arguments of `find_pairs`: labels, channel, ignore, axes, voxel_size ...
    **settings
        See `TrainSettings`.

    Returns
    -------
    Model
        The best model, which `out` holds too.

    Raises
    ------
    UsageError, VolumeError
        The data or settings cannot be trained with; the file is named, nothing has begun.
    ModelError
        There is nothing to resume, or `start` does not fit the data.
    """
    chosen = TrainSettings(**settings)
    pairs = find_pairs(images, masks, ndim=ndim, **(pairing or {}))
    if validation_images is not None:
        held = find_pairs(validation_images, validation_masks, ndim=ndim, **(pairing or {}))
    else:
        pairs, held = split(pairs, validation, chosen.seed)
    model = load_model(start) if isinstance(start, str | os.PathLike) else start
    properties = measure(pairs, crop=crop, pitch=None if model is None else model.pitch)
    crops = CropDataset(
        pairs,
        properties,
        find_centers(pairs, properties.objects, center),  # type: ignore[arg-type]
        augment=augment or AugmentSettings(),
        seed=chosen.seed,
    )
    path = Path(out)
    trainer = Trainer(
        crops,
        held,
        measure(held).ranges if held else (),
        chosen,
        path.with_name(f"{path.name}.training"),
        start=model,
        device=device,
        watcher=watcher,
    )
    if resume:
        trainer.resume()
    elif trainer.folder.exists():
        raise UsageError(f"{trainer.folder} exists; resume it, or choose another out")
    best = trainer.run()
    best.save(path)
    return best


def split(pairs: list[Pair], fraction: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Draw images to validate on; at least one if there are two or more."""
    if not 0 <= fraction < 1:
        raise UsageError(f"validation is {fraction}; pass a fraction from 0 to below 1")
    count = min(len(pairs) - 1, max(1, round(fraction * len(pairs)))) if fraction else 0
    chosen = set(np.random.default_rng(seed).permutation(len(pairs))[:count].tolist())
    held = [pair for i, pair in enumerate(pairs) if i in chosen]
    return [pair for i, pair in enumerate(pairs) if i not in chosen], held
