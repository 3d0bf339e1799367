"""On a CPU, tiles share the cores of this process, and no label shows it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Thread, current_thread
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

import embedseg_large as es
from embedseg_large.network.memory import Memory
from embedseg_large.network.model import Model
from embedseg_large.segmentation.request import estimate
from embedseg_large.testing.synthetic import render, synthetic_embryo

OPTIONS: dict[str, Any] = {"tile": (16, 32, 32), "context": (8, 8, 8)}


@pytest.fixture(scope="module")
def image() -> NDArray[np.float32]:
    labels = synthetic_embryo((32, 64, 64), n_objects=10, diameter=14, seed=3)
    return render(labels, seed=1).astype(np.float32)


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "cpu_count", lambda: 4)


@pytest.fixture
def on_passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Calls something at the beginning of each pass."""
    forward = Model._forward

    def watch(call: Callable[[], object]) -> None:
        def watched(self: Model, images: Tensor, memory: Memory) -> Tensor:
            call()
            return forward(self, images, memory)

        monkeypatch.setattr(Model, "_forward", watched)

    return watch


@pytest.mark.parametrize("tta", ["none", 4])
def test_labels_are_those_of_one_tile_after_another(
    image: NDArray[np.float32],
    tmp_path: Path,
    tta: int | str,
    on_passes: Callable[[Callable[[], object]], None],
) -> None:
    threads: set[Thread] = set()
    on_passes(lambda: threads.add(current_thread()))
    found = []
    for lanes in (1, 3):
        threads.clear()
        model = es.load_model("nuclei-3d").to(lanes=lanes)
        made = es.segment(image, model, output=tmp_path / f"{lanes}.zarr", tta=tta, **OPTIONS)
        found.append(np.asarray(made.labels))
        if lanes > 1:
            assert 1 < len(threads) <= lanes
    assert found[0].any()
    np.testing.assert_array_equal(found[0], found[1])


def test_an_interrupt_waits_for_passes_and_not_for_tiles(
    image: NDArray[np.float32],
    tmp_path: Path,
    on_passes: Callable[[Callable[[], object]], None],
) -> None:
    passes = 0

    def count() -> None:
        nonlocal passes
        passes += 1

    class Interrupt:
        tiles = 0

        def begin(self, stage: str, tiles: int) -> None: ...

        def advance(self, stage: str) -> None:
            self.tiles += stage == "predict"
            if self.tiles == 2:
                raise KeyboardInterrupt

    on_passes(count)
    model = es.load_model("nuclei-3d").to(lanes=2)
    options = OPTIONS | {"tta": 8, "augment_above": 0, "output": tmp_path / "out.zarr"}
    with pytest.raises(KeyboardInterrupt):
        es.segment(image, model, watcher=Interrupt(), **options)
    assert passes < 8 * 6
    resumed = es.segment(image, model, **options)
    assert resumed.summary["resumed"] == {"predict": 1}
    assert resumed.n_instances
