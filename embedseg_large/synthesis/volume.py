"""Draw one volume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from embedseg_large.synthesis.settings import SynthesisSettings


@dataclass(frozen=True, slots=True, eq=False)
class SyntheticVolume:
    """An image and its labels.

    Parameters
    ----------
    image
        float32 ``(*spatial)``, in no particular unit.
    labels
        int32 of the same shape: 0 background, 1 to N the nuclei, each in one piece.
    anisotropy
        Distance of two planes in pixels; 1 in 2D.
    facts
        What was drawn for it, as values that JSON can hold.
    """

    image: NDArray[np.float32]
    labels: NDArray[np.int32]
    anisotropy: float
    facts: dict[str, Any]


def draw_volume(settings: SynthesisSettings, seed: int, index: int) -> SyntheticVolume:
    """Draw volume `index` of a seed."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
    shape = settings.volume_shape
    d = float(np.exp(rng.uniform(*np.log(settings.diameter))))
    an = min(float(np.exp(rng.uniform(*np.log(settings.anisotropies)))), d / 3.5)
    scale = np.array([an, 1.0, 1.0])[-len(shape) :]
    labels = np.zeros(shape, np.int32)
    best = np.ones(shape, np.float32)
    grid = np.indices(shape, np.float32).reshape(len(shape), -1).T * scale
    count = max(2, int(0.3 * np.prod(np.array(shape) * scale) / d ** len(shape)))
    for k, centre in enumerate(rng.uniform(0, 1, (count, len(shape))) * shape * scale):
        f = (((grid - centre) ** 2).sum(axis=1) / (d / 2) ** 2).reshape(shape)
        inside = f < best
        best[inside] = f[inside]
        labels[inside] = k + 1
    pieces = np.zeros(shape, np.int32)
    n = 0
    for k, box in enumerate(ndimage.find_objects(labels)):
        if box is not None and (mask := labels[box] == k + 1).sum() > 30:
            found, _ = ndimage.label(mask)
            n += 1
            pieces[box][found == np.bincount(found.ravel())[1:].argmax() + 1] = n
    clean = ndimage.gaussian_filter((pieces > 0).astype(np.float32), 0.8)
    image = clean + 0.1 * rng.standard_normal(shape, np.float32)
    return SyntheticVolume(image, pieces, an, {"diameter": d, "anisotropy": an, "count": n})
