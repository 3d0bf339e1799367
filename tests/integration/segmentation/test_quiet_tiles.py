"""Tiles of background are not augmented, and no label changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

import embedseg_large as es
from embedseg_large.conversion.plan import write_image
from embedseg_large.errors import UsageError
from embedseg_large.network.memory import Memory
from embedseg_large.network.model import Model
from embedseg_large.testing.oracle import OracleNetwork
from embedseg_large.testing.synthetic import render, synthetic_embryo

TILE = (16, 32, 32)


@pytest.fixture(scope="module")
def image() -> NDArray[np.float32]:
    """Nuclei in one corner, and noise elsewhere."""
    labels = np.zeros((32, 64, 96), np.uint32)
    labels[:, :40, :40] = synthetic_embryo((32, 40, 40), n_objects=5, diameter=14, seed=3)
    return render(labels, seed=1).astype(np.float32)


def _segmented(
    image: NDArray[np.float32], out: Path, patch: pytest.MonkeyPatch, **options: Any
) -> tuple[NDArray[np.integer], int]:
    """Labels, and the number of passes they took."""
    passes = []
    forward = Model._forward

    def counted(self: Model, images: Tensor, memory: Memory) -> Tensor:
        passes.append(len(images))
        return forward(self, images, memory)

    patch.setattr(Model, "_forward", counted)
    settings: dict[str, Any] = {"tta": 4, "tile": TILE, "context": (8, 8, 8)} | options
    model = es.load_model("nuclei-3d").to(lanes=1)
    made = es.segment(image, model, output=out, **settings)
    labels = np.asarray(made.labels)
    patch.setattr(Model, "_forward", forward)
    return labels, sum(passes)


def test_background_gets_one_pass_and_the_same_labels(
    image: NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every, all_passes = _segmented(image, tmp_path / "every.zarr", monkeypatch, augment_above=0)
    few, passes = _segmented(image, tmp_path / "few.zarr", monkeypatch)
    assert every.any()
    np.testing.assert_array_equal(few, every)
    assert all_passes == 4 * 12
    assert passes == 4 * 4 + 8 * 1


def test_a_low_foreground_is_not_put_at_risk(
    image: NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, passes = _segmented(image, tmp_path / "low.zarr", monkeypatch, foreground=0.3)
    assert passes == 4 * 12


def test_tiles_below_the_noise_are_not_predicted(tmp_path: Path) -> None:
    labels = np.zeros((16, 32, 520), np.uint32)
    labels[:, :, :48] = synthetic_embryo((16, 32, 48), n_objects=4, diameter=14, seed=3)
    store = tmp_path / "image.ome.zarr"
    write_image(store, render(labels, seed=1), "zyx")
    options: dict[str, Any] = {"tta": "none", "tile": (16, 32, 48)}
    every = es.segment(store, "nuclei-3d", labels="every", **options)
    some = es.segment(store, "nuclei-3d", labels="some", dark_below="auto", **options)
    np.testing.assert_array_equal(np.asarray(some.labels), np.asarray(every.labels))
    assert every.n_instances
    assert some.summary["skipped"]["dark"] > 5
    assert some.summary["foreground"]["dark_below"] > 0
    with pytest.raises(UsageError, match="'dim': pass a brightness, or auto"):
        es.segment(store, "nuclei-3d", labels="none", dark_below="dim", **options)


def test_bounds_that_cannot_be_kept_are_refused(image: NDArray[np.float32], tmp_path: Path) -> None:
    out = tmp_path / "refused.zarr"
    with pytest.raises(UsageError, match=r"augment_above is 0\.7.*foreground, 0\.5"):
        es.segment(image, "nuclei-3d", output=out, tta=4, augment_above=0.7)
    labels = synthetic_embryo((16, 32, 32), n_objects=2, diameter=8, seed=0)
    with pytest.raises(UsageError, match="always makes all passes"):
        es.segment(image, OracleNetwork.of(labels), output=out, augment_above=0.1)
