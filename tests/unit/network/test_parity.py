"""The network computes what the original program computes.

`tests/data/parity` holds outputs that the original recorded. Its weights follow from the names of
the tensors, by the rule below, and are not stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod, sqrt
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedseg_large.network.model import Model
from embedseg_large.network.settings import ModelSettings

PARITY = Path(__file__).parents[2] / "data" / "parity"


def weights_of(ndim: int) -> dict[str, Tensor]:
    """Return the weights with which the outputs were recorded."""
    listing = json.loads((PARITY / f"state_dict_{ndim}d.json").read_text())
    return {name: torch.from_numpy(_tensor(name, shape)) for name, shape, _ in listing}


def _tensor(name: str, shape: list[int]) -> NDArray[np.generic]:
    kind = name.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return np.array(1)
    noise = np.random.default_rng(crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if kind == "running_var":
        return 1 + 0.2 * np.abs(noise)
    if kind == "running_mean":
        return 0.1 * noise
    if len(shape) > 1:
        return noise * np.float32(sqrt(2 / prod(shape[1:])))
    return 1 + 0.1 * noise if ".bn" in name and kind == "weight" else 0.05 * noise


def model_of(ndim: int) -> Model:
    settings = ModelSettings.from_objects(
        pitch=(0.02,) * ndim, extent=(20,) * ndim, min_object_size=10
    )
    return Model(weights_of(ndim), settings)


def deviation(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """Return the largest difference in units of the output's standard deviation."""
    return float(np.abs(ours - theirs).max() / theirs.std())


@pytest.fixture(params=[2, 3], ids=["2D", "3D"])
def ndim(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def recorded(ndim: int) -> Mapping[str, NDArray[np.float32]]:
    with np.load(PARITY / f"network_{ndim}d.npz") as file:
        return dict(file)


def test_raw_channels(ndim: int, recorded: Mapping[str, NDArray[np.float32]]) -> None:
    raw = model_of(ndim).predict_raw(recorded["image"])
    assert deviation(raw, recorded["output"]) < 1e-4


def test_augmented_raw_channels(ndim: int, recorded: Mapping[str, NDArray[np.float32]]) -> None:
    raw = model_of(ndim).predict_raw(recorded["image"], tta=True)
    assert deviation(raw, recorded["output_tta"]) < 1e-4


def test_augmentation_makes_a_difference(
    ndim: int, recorded: Mapping[str, NDArray[np.float32]]
) -> None:
    assert deviation(recorded["output"], recorded["output_tta"]) > 0.1
    fewer = model_of(ndim).predict_raw(recorded["image"], tta="4")
    assert deviation(fewer, recorded["output_tta"]) > 0.01
