"""One synthetic volume: a pure function of settings, seed and number.

::

    centres ─► nuclei ─► labels, depth ─► light ─► microscope ─► image
    layout     nuclei    (exact)          look     microscope

Everything is generated in three axes; a 2D image is a volume of one plane that contains its nuclei.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.synthesis.filters import smooth_noise
from embedseg_large.synthesis.layout import draw_centres
from embedseg_large.synthesis.look import Specimen, shine
from embedseg_large.synthesis.microscope import project, record
from embedseg_large.synthesis.nuclei import (
    draw_nuclei,
    keep_pieces,
    paint,
    separate,
    smallest_sizes,
)
from embedseg_large.synthesis.settings import LEAST_DEPTH, SynthesisSettings

_ATTEMPTS = 100  # attempts to generate a volume that is not empty
_STREAMS = (
    5  # streams of random numbers: a stage that needs more of them does not affect the others
)
_ISOTROPIC = 0.35  # share of isotropic volumes, if the range begins at 1


@dataclass(frozen=True, slots=True, eq=False)
class SyntheticVolume:
    """An image and its labels.

    Parameters
    ----------
    image
        float32 ``(*spatial)``, in no particular unit.
    labels
        int32 of the same shape: 0 background, 1 to N the nuclei, each in one piece whose voxels
        share faces.
    anisotropy
        Distance between planes in pixels; 1 in 2D.
    facts
        The values drawn for it, as values that JSON can hold.
    """

    image: NDArray[np.float32]
    labels: NDArray[np.int32]
    anisotropy: float
    facts: dict[str, Any]


def draw_volume(settings: SynthesisSettings, seed: int, index: int) -> SyntheticVolume:
    """Draw a volume with at least one nucleus.

    Parameters
    ----------
    settings
        Settings of the volume.
    seed, index
        Its seed and index, both from 0. Nothing else affects its voxels, neither earlier volumes
        nor the process.

    Raises
    ------
    UsageError
        If seed or index is negative, or the settings only give empty volumes.
    """
    if seed < 0 or index < 0:
        raise UsageError(f"volume {index} of seed {seed}; pass numbers from 0 on")
    for attempt in range(_ATTEMPTS):
        streams = np.random.SeedSequence(seed, spawn_key=(index, attempt)).spawn(_STREAMS)
        drawn = _draw(settings, [np.random.Generator(np.random.PCG64(s)) for s in streams])
        if drawn is not None:
            return drawn
    raise UsageError(
        f"no nucleus of {settings.diameter} pixels stays in {settings.volume_shape} voxels; pass "
        "a larger shape"
    )


def _draw(
    settings: SynthesisSettings, streams: list[np.random.Generator]
) -> SyntheticVolume | None:
    """Draw a volume; None if it is empty."""
    shape = settings.volume_shape
    scene, facts = _scene(settings, (1, *shape)[-3:], streams)
    if not len(scene.condensed):
        return None
    light = shine(settings, scene, streams[2])
    image = record(settings, scene, project(settings, scene, light, streams[3]), streams[4])
    facts |= {"objects": len(scene.condensed), "dividing": int(scene.condensed.sum())}
    return SyntheticVolume(
        np.ascontiguousarray(image.reshape(shape), np.float32),
        scene.labels.reshape(shape),
        scene.anisotropy,
        facts,
    )


def _scene(
    settings: SynthesisSettings, shape: tuple[int, ...], streams: list[np.random.Generator]
) -> tuple[Specimen, dict[str, Any]]:
    """Draw nuclei, and determine the nucleus of each voxel."""
    rng, ndim = streams[0], settings.ndim
    diameter = float(np.exp(rng.uniform(*np.log(settings.diameter))))
    anisotropy = _anisotropy(settings, diameter, rng)
    pixels = np.array(shape) * (anisotropy, 1, 1)
    centres, layout = draw_centres(settings, pixels[-ndim:], diameter, rng)
    rng = streams[1]
    nuclei = draw_nuclei(settings, centres, diameter, rng)
    long = diameter * rng.uniform(0.2, 0.5)
    uneven = smooth_noise(shape, (long / anisotropy, long, long), rng)
    low, high = settings.roughness
    uneven *= np.float32((low + (high - low) * rng.beta(1, 2.5)) / 2)
    labels, depth = paint(nuclei, uneven, anisotropy)
    if rng.random() < settings.gaps:
        separate(labels)
    kept = keep_pieces(labels, *smallest_sizes(diameter, anisotropy, ndim))
    scene = Specimen(labels, depth, nuclei.condensed[kept - 1], diameter, anisotropy)
    return scene, {"diameter": diameter, "anisotropy": anisotropy, "layout": layout}


def _anisotropy(settings: SynthesisSettings, diameter: float, rng: np.random.Generator) -> float:
    """Draw the distance between planes, limited so that nuclei have some depth."""
    low, high = settings.anisotropies
    isotropic, where = rng.random(2)
    if low == 1 and isotropic < _ISOTROPIC:
        return 1.0
    most = max(low, min(high, diameter / LEAST_DEPTH))
    return float(low * (most / low) ** where)
