"""A model of any method and backbone predicts, is stored, and says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from embedseg_large.errors import ModelError, UsageError
from embedseg_large.fields import Field
from embedseg_large.network.backbones import new_network
from embedseg_large.network.checkpoint import load_model
from embedseg_large.network.exchange.portable import PortableModel
from embedseg_large.network.model import Model
from embedseg_large.network.settings import BACKBONES, ModelSettings

FIELDS = (
    Field(name="flow", kind="vector", axes=(0, 1)),
    Field(name="foreground", kind="scalar", head=1),
)


def settings_of(ndim: int, backbone: str, channels: int = 1) -> ModelSettings:
    plain = ModelSettings.from_objects(
        pitch=(0.1,) * ndim, extent=(9,) * ndim, min_object_size=2, channels=channels
    )
    axes = tuple(range(ndim))
    fields = (replace(FIELDS[0], axes=axes), FIELDS[1])
    return replace(plain, method="flows", backbone=backbone, fields=fields)


def model_of(ndim: int, backbone: str, channels: int = 1) -> Model:
    torch.manual_seed(0)
    settings = settings_of(ndim, backbone, channels)
    network = new_network(settings).train()
    network(torch.rand(4, channels, *(16,) * ndim))  # running statistics
    return Model(network.state_dict(), settings)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("ndim", [2, 3])
def test_a_model_answers_as_its_network_does(ndim: int, backbone: str) -> None:
    model = model_of(ndim, backbone, channels=2)
    network = new_network(model.settings)
    network.load_state_dict(model.weights)
    image = np.random.default_rng(0).random((2, *(16,) * ndim), np.float32)
    with torch.inference_mode():
        wanted = network.eval()(torch.from_numpy(image[None]))[0].numpy()
    raw = model.predict_raw(image)
    assert raw.shape == (ndim + 1, *(16,) * ndim)
    np.testing.assert_allclose(raw, wanted, atol=1e-4)


def test_a_unet_has_the_filters_of_the_baselines() -> None:
    network = new_network(settings_of(2, "unet"))
    widths = {p.shape[0] for name, p in network.named_parameters() if "encoder" in name}
    assert widths == {32, 64, 128, 256}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_file_records_method_and_backbone(tmp_path: Path, backbone: str) -> None:
    model = model_of(2, backbone)
    model.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert again.settings == model.settings
    assert again.fingerprint == model.fingerprint
    assert (again.settings.method, again.settings.backbone) == ("flows", backbone)


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    model = model_of(2, "unet")
    model.settings = replace(model.settings, backbone="erfnet")
    model.save(tmp_path / "model")
    with pytest.raises(ModelError, match=r"tensor \S+ is missing; it is not a 2D erfnet network"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize("backbone", [*BACKBONES, "forest"])
@pytest.mark.parametrize("wrong", [{"head": 3_000_000}, {"kind": "scalar", "count": 10**12}])
def test_a_small_file_cannot_demand_a_huge_network(
    tmp_path: Path, backbone: str, wrong: dict[str, object]
) -> None:
    settings = settings_of(2, backbone).as_dict()
    settings["fields"] = [{"name": "x", "kind": "scalar"} | wrong]
    header = json.dumps({"version": 1, "settings": settings, "card": {}})
    path = tmp_path / "model"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, {"embedseg_large": header})
    with pytest.raises(ModelError, match="fields"):
        load_model(path)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"backbone": "vgg"}, "backbone is 'vgg'; use erfnet or unet"),
        ({"method": "embedseg"}, "method is embedseg with 2 fields"),
        ({"fields": ()}, "method is flows with 0 fields"),
        ({"fields": FIELDS[1:]}, "fields are of heads 1;"),
    ],
)
def test_settings_that_do_not_fit_are_refused(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        replace(settings_of(2, "unet"), **wrong)  # type: ignore[arg-type]


def test_more_channels_than_erfnet_can_take_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"at most 15 image channels, not 16; .* use the backbone"):
        new_network(settings_of(2, "erfnet", channels=16))
    assert new_network(settings_of(2, "unet", channels=16)).encoder
    model = model_of(2, "unet", channels=16)
    model.settings = replace(model.settings, backbone="erfnet")
    model.save(tmp_path / "model")
    with pytest.raises(ModelError, match=f"{tmp_path / 'model'}: the backbone erfnet takes"):
        load_model(tmp_path / "model")


def test_augmentation_averages_fields_as_they_turn() -> None:
    model = model_of(2, "unet")
    image = np.random.default_rng(1).random((16, 16), np.float32)
    raw = model.predict_raw(image, tta=8)
    flipped = model.predict_raw(np.ascontiguousarray(image[::-1]), tta=8)[:, ::-1]
    np.testing.assert_allclose(flipped * [[[-1]], [[1]], [[1]]], raw, atol=1e-5)


def test_a_mode_that_a_field_cannot_be_turned_by_is_refused() -> None:
    model = model_of(2, "unet")
    edges = Field(name="affinities", kind="edges", directions=((0, 1), (2, 0)))
    model.settings = replace(model.settings, fields=(edges, FIELDS[1]))
    assert model.tta_modes == ("none",)
    with pytest.raises(UsageError, match=r"augmentation 8: field 'affinities' has no direction"):
        model.tta_mode(8)


def test_a_model_of_another_method_has_no_embedding() -> None:
    model = model_of(2, "unet")
    with pytest.raises(UsageError, match="models of the method flows have no embedding"):
        model.predict(np.zeros((16, 16), np.float32))
    with pytest.raises(UsageError, match="only embedseg with erfnet can be exported"):
        PortableModel.of(model)
