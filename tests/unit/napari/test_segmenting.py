"""A part of a layer is segmented with a model of any method, as the command line does it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import embedseg_large as es
from embedseg_large.clustering.settings import ClusteringSettings
from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.napari.segmenting import Wish, fixed_thresholds, segment_part
from embedseg_large.napari.selection import LayerSource
from embedseg_large.napari.telling import ToldOfRun
from embedseg_large.network.checkpoint import load_model
from embedseg_large.network.forest import FOREST
from embedseg_large.testing.synthetic import render, synthetic_embryo

THRESHOLDS = ClusteringSettings(min_object_size=20, seed=0.85, foreground=0.45, margin=0.55)


def example(seed: int) -> tuple[NDArray[Any], NDArray[np.int32]]:
    labels = synthetic_embryo((88, 96), diameter=14, density=0.25, spacing=1.2, seed=seed)
    return render(labels.astype(np.int32), seed=seed), labels.astype(np.int32)


def source_of(image: NDArray[Any]) -> LayerSource:
    layer = SimpleNamespace(scale=(1.0, 1.0), units=(None, None))
    return LayerSource(
        name="cells", layer=layer, array=image, level=0, leading=(), factors=np.ones(2)
    )


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the method three-class."""
    pytest.importorskip("sklearn")
    path = tmp_path_factory.mktemp("models") / "forest.safetensors"
    images, masks = zip(*map(example, range(2)), strict=True)
    es.train(list(images), list(masks), out=path, method=FOREST, validation=0)
    return path


def test_a_model_of_another_method_segments_and_keeps_no_predictions(
    forest: Path, tmp_path: Path
) -> None:
    image, _ = example(7)
    box = Box((8, 0), (80, 96))
    wish = Wish(model=str(forest), thresholds=THRESHOLDS)
    found = segment_part(source_of(image), box, wish, ToldOfRun())
    wanted = es.segment(
        image, forest, output=tmp_path / "out.zarr", region=box.slices, min_object_size=20
    )
    assert found.n_instances == wanted.n_instances > 3
    np.testing.assert_array_equal(found.labels, wanted.labels.compute()[box.slices])
    assert found.kept is None
    assert "found in" in found.summary
    assert "; thresholds of three-class are set in training" in found.summary
    assert "too many" not in found.summary


def test_embedseg_uses_and_keeps_the_thresholds(tmp_path: Path) -> None:
    image, _ = example(7)
    box = Box.whole(image.shape)
    wish = Wish(model="nuclei-2d", thresholds=THRESHOLDS)
    found = segment_part(source_of(image), box, wish, ToldOfRun())
    stated: dict[str, Any] = {"seed": 0.85, "foreground": 0.45, "margin": 0.55}
    wanted = es.segment(
        image, output=tmp_path / "out.zarr", tta="none", min_object_size=20, **stated
    )
    np.testing.assert_array_equal(found.labels, wanted.labels.compute())
    assert found.kept is not None
    assert found.fixed is None


def test_a_scale_is_found_by_embeddings_only(forest: Path) -> None:
    image, _ = example(7)
    wish = Wish(model=str(forest), object_diameter="auto", thresholds=THRESHOLDS)
    with pytest.raises(UsageError, match="uses the method three-class; pass the diameter"):
        segment_part(source_of(image), Box.whole(image.shape), wish, ToldOfRun())


def test_thresholds_of_embedseg_can_be_moved(forest: Path) -> None:
    assert fixed_thresholds(load_model("nuclei-2d")) is None
    assert fixed_thresholds(load_model(forest)) == "thresholds of three-class are set in training"
