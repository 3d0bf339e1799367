"""A model's context is as far as the model looks."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter

from embedseg_large.geometry import Box
from embedseg_large.network.model import Model
from embedseg_large.network.settings import ModelSettings
from embedseg_large.testing.synthetic import embedding_of, synthetic_embryo
from embedseg_large.training.context import measure_context, middle, middle_of
from embedseg_large.training.data.sources import find_pairs
from embedseg_large.training.validation import Example
from embedseg_large.volumes.intensity import IntensityRange

PITCH = 1 / 64


@dataclass(frozen=True)
class Nearsighted:
    """Knows the labels that its image shows, but nothing within `sight` of the image's border."""

    sight: int
    ndim: int = 2

    @property
    def settings(self) -> ModelSettings:
        """Of EmbedSeg, with one pitch along each axis."""
        pitch, extent = (PITCH,) * self.ndim, (20,) * self.ndim
        return ModelSettings.from_objects(pitch=pitch, extent=extent, min_object_size=10)

    def predict_raw(self, image: NDArray[np.float32], tta: bool = False) -> NDArray[np.float32]:
        """Raw channels that say what the image shows."""
        assert not tta
        labels = image[0].astype(np.int64)
        found = embedding_of(labels)
        seen = minimum_filter(np.ones_like(labels), 2 * self.sight + 1, mode="constant")
        offsets = np.arctanh(found.offsets[::-1] * PITCH)
        sigmas = -np.log(2 * (found.sigmas[::-1] * PITCH) ** 2) / 10
        seeds = np.clip(found.seeds * seen, 1e-4, 1 - 1e-4)
        logits = np.log(seeds / (1 - seeds))[np.newaxis]
        return np.concatenate([offsets, sigmas, logits]).astype(np.float32)


def context_of(sight: int, image: NDArray[Any]) -> int | None:
    return measure_context(cast(Model, Nearsighted(sight)), image[np.newaxis].astype(np.float32))


@pytest.mark.parametrize(("sight", "context"), [(0, 8), (7, 8), (12, 16), (29, 32)])
def test_the_smallest_context_that_changes_no_label(sight: int, context: int) -> None:
    cells = synthetic_embryo((256, 256), diameter=14, density=0.6, seed=2)
    assert context_of(sight, cells) == context


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ((5, 64, 70), Box((0, 0, 3), (5, 64, 67))),  # hardly any planes, but all of them
        ((12, 700, 161), Box((2, 270, 0), (10, 430, 160))),
        ((400, 9), Box((8, 0), (392, 8))),
    ],
)
def test_the_middle_is_at_most_as_large_as_needed(shape: tuple[int, ...], box: Box) -> None:
    assert middle(shape) == box


class Recording:
    """An image that remembers which part of it was read."""

    dtype = np.dtype(np.float32)

    def __init__(self, voxels: NDArray[np.float32]) -> None:
        self._voxels, self.shape, self.ndim = voxels, voxels.shape, voxels.ndim
        self.read: list[tuple[int, ...]] = []

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        part: NDArray[np.float32] = self._voxels[index]
        self.read.append(part.shape)
        return part


@pytest.mark.parametrize(("diameter", "read"), [(None, 384), (20.0, 770), (5.0, 194)])
def test_only_the_middle_is_read_and_brought_to_the_scale_of_the_model(
    diameter: float | None, read: int
) -> None:
    voxels = np.linspace(0, 1, 800 * 800, dtype=np.float32).reshape(800, 800)
    image = Recording(voxels)
    (pair,) = find_pairs([image], [np.ones((800, 800), np.uint8)])
    model = cast(Model, SimpleNamespace(object_diameter=10, object_depth=None, voxel_size=None))
    example = Example.whole(pair, [IntensityRange(0.0, 1.0)], diameter=diameter)
    image.read.clear()
    found = middle_of(model, example)
    assert image.read == [(read, read)]
    assert found.shape == (1, 384, 384)
    grid = example.resampling(model)
    whole = grid.image(example.image(), Box.whole(grid.target))
    np.testing.assert_array_equal(found, whole[(slice(None), *middle(whole.shape[1:]).slices)])


def test_an_image_of_one_tile_or_without_objects_tells_nothing() -> None:
    assert context_of(5, synthetic_embryo((64, 64), diameter=14, seed=2)) is None
    assert context_of(5, np.zeros((256, 256))) is None
