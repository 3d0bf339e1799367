"""A model of any method is segmented with tile by tile, and the labels are those of one tile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import embedseg_large as es
from embedseg_large.errors import ModelError, UsageError
from embedseg_large.geometry import Box
from embedseg_large.methods.of_model import method_of
from embedseg_large.methods.protocol import FieldMethod, ObjectScale
from embedseg_large.methods.registry import FIELD_METHODS, field_method
from embedseg_large.network.backbones import new_network
from embedseg_large.network.model import Model
from embedseg_large.network.settings import ModelSettings
from embedseg_large.segmentation.segmenters.method_segmenter import MethodSegmenter, segmenter_of
from embedseg_large.storage.open import folder_at
from embedseg_large.testing.synthetic import synthetic_embryo

EXTENT = (13, 13, 13)
SHAPE = (48, 40, 40)
TILES: dict[str, Any] = {"tile": (16, 16, 16), "cluster_tile": (24, 20, 20)}
QUICK = ("three-class", "stardist")
ONE_TILE: dict[str, Any] = {"tile": (16, 16, 16), "cluster_tile": SHAPE}


@dataclass(frozen=True)
class Oracle:
    """Predicts the ideal fields of labels, which it sees in place of an image."""

    settings: ModelSettings
    channels: int = 1
    seed: float = 0.9
    margin: float = 0.5
    object_diameter: float | None = None
    object_depth: float | None = None
    voxel_size: tuple[float, ...] | None = None
    bytes_per_voxel: float = 100.0
    cleaning: tuple[bool, bool] = (False, False)

    @classmethod
    def of(cls, name: str) -> Oracle:
        plain = ModelSettings.from_objects(
            pitch=(0.1,) * 3, extent=EXTENT, min_object_size=5, context=(16, 16, 16)
        )
        method = field_method(name, ObjectScale(ndim=3, extent=EXTENT))
        return cls(replace(plain, method=name, fields=method.fields, halo=method.halo))

    @property
    def method(self) -> FieldMethod:
        method = method_of(self.settings)
        assert method is not None
        return method

    @property
    def fingerprint(self) -> str:
        return f"oracle of {self.settings.method}"

    def __getattr__(self, name: str) -> Any:
        if name in ("ndim", "tile", "context", "halo", "reach", "min_object_size"):
            return getattr(self.settings, name)
        raise AttributeError(name)

    def thresholds_of(self, tta: str) -> tuple[float, float]:
        assert tta == "none"
        return self.seed, self.margin

    def tta_mode(self, tta: bool | int | str) -> str:
        assert tta is not None
        return "none"

    def predict_raw(self, image: NDArray[np.float32], tta: bool | int | str) -> NDArray[np.float32]:
        assert tta == "none"
        return self.method.ideal(self.method.targets(np.rint(image[0]).astype(np.int32)))


def segmented(name: str, out: Path, labels: NDArray[Any], **options: Any) -> es.SegmentResult:
    return es.segment(
        labels.astype(np.uint16),
        Oracle.of(name),  # what tests put in place of a model
        output=out,
        intensity_range=(0, 1),
        **options,
    )


def embryo(*, touching: bool) -> NDArray[np.uint32]:
    spacing, density = (0.8, 0.6) if touching else (1.3, 0.25)
    return synthetic_embryo(SHAPE, diameter=10, spacing=spacing, density=density, seed=1)


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FIELD_METHODS]
)
def test_labels_do_not_depend_on_the_tiles(name: str, tmp_path: Path) -> None:
    labels = embryo(touching=name != "two-class")
    tiled = segmented(name, tmp_path / "tiled", labels, **TILES)
    whole = segmented(name, tmp_path / "whole", labels, **ONE_TILE)
    np.testing.assert_array_equal(tiled.labels.compute(), whole.labels.compute())
    assert tiled.n_instances == whole.n_instances == labels.max()
    assert tiled.seams.faces > 0
    assert tiled.seams.joined == 0
    promise = Oracle.of(name).method.promise.value
    assert tiled.summary["seams"]["promise"] == promise
    if promise != "exact" and name != "two-class":
        assert tiled.seams.certified == tiled.seams.tiles_exact == 0


def test_a_piece_larger_than_any_tile_is_one_instance(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, np.uint32)
    labels[4:6, 4:36, 4:36] = 1  # a sheet
    labels[30:34, 10:14, 10:14] = 2
    options = {"halo": (4, 4, 4), "max_halo": (4, 4, 4), "cluster_tile": (16, 12, 12)}
    found = segmented("two-class", tmp_path / "out", labels, tile=(16, 16, 16), **options)
    assert found.n_instances == 2
    assert found.seams.promise == "joined"


def test_kept_predictions_of_another_method_are_refused(tmp_path: Path) -> None:
    labels = embryo(touching=False)
    kept = segmented("two-class", tmp_path / "a", labels, keep_predictions=True, **TILES)
    again = segmented(
        "two-class", tmp_path / "b", labels, from_predictions=kept.summary["predictions"], **TILES
    )
    np.testing.assert_array_equal(again.labels.compute(), kept.labels.compute())
    with pytest.raises(UsageError, match=r"these predictions had .*oracle of two-class") as refused:
        segmented(
            "flows", tmp_path / "c", labels, from_predictions=kept.summary["predictions"], **TILES
        )
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("flows", {"seed": 0.5}, "seed: not supported by models of the method flows"),
        ("stardist", {"foreground": 0.3, "margin": 0.4}, "foreground, margin: not supported"),
        ("affinities", {"strict": True}, "strict: the method affinities allows no proof"),
        ("harmonic", {"object_diameter": "auto"}, "object diameter auto needs a network that"),
    ],
)
def test_options_of_embedseg_are_refused(
    name: str, options: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=named):
        segmented(name, tmp_path / "out", embryo(touching=False), **options)


def test_workers_get_the_network_with_its_method(tmp_path: Path) -> None:
    settings = Oracle.of("three-class").settings
    model = Model(new_network(settings).state_dict(), settings)
    segmenter = segmenter_of(model)
    assert isinstance(segmenter, MethodSegmenter)
    image = np.random.default_rng(0).random((1, 16, 16, 16), np.float32)
    spec = segmenter.spec("cpu", "float32", folder_at(str(tmp_path)))
    region = Box.whole((16, 16, 16))
    here = segmenter.placed("cpu", "float32").predict_tile(image, region, "none")
    there = spec.load().predict_tile(image, region, "none")
    assert here.shape == (2, 16, 16, 16)
    np.testing.assert_array_equal(here, there)


def restless(name: str) -> Model:
    """A model whose random weights find many odd objects in noise."""
    settings = replace(Oracle.of(name).settings, context=(8, 8, 8), min_object_size=3)
    torch.manual_seed(0)
    weights = new_network(settings).state_dict()
    image = np.random.default_rng(1).random((1, 32, 32, 32), np.float32)
    raw = Model(weights, settings).predict_raw(image).reshape(3, -1)
    scale = torch.from_numpy(5 / raw.std(axis=1))
    last = "decoders.0.output_conv"
    mean = torch.from_numpy(raw.mean(axis=1))
    weights[f"{last}.bias"] = (weights[f"{last}.bias"] - mean) * scale
    weights[f"{last}.weight"] = weights[f"{last}.weight"] * scale.view(1, -1, 1, 1, 1)
    return Model(weights, settings)


def test_workers_find_the_same_labels(client: Any, tmp_path: Path) -> None:
    model = restless("three-class")
    image = np.random.default_rng(2).random((32, 40, 40), np.float32)
    options: dict[str, Any] = {"tta": "none", "tile": (16, 24, 24)}
    whole = es.segment(
        image, model, output=tmp_path / "whole", cluster_tile=(32, 40, 40), **options
    )
    es.convert(image, tmp_path / "image.ome.zarr")
    tiled = es.segment(
        tmp_path / "image.ome.zarr",
        model,
        client=client,
        cluster_tile=(16, 20, 20),
        **options,
    )
    assert whole.n_instances > 20
    assert tiled.seams.joined == 0
    np.testing.assert_array_equal(tiled.labels.compute(), whole.labels.compute())


def test_a_model_with_other_fields_than_its_method_is_refused(tmp_path: Path) -> None:
    oracle = Oracle.of("flows")
    wrong = replace(oracle, settings=replace(oracle.settings, method="stardist"))
    with pytest.raises(ModelError, match="of the method stardist, but has other fields"):
        es.segment(embryo(touching=False), wrong, output=tmp_path / "out")
