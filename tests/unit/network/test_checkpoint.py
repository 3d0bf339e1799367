"""Models are read from our files, from original checkpoints and by name; anything else is named."""

from __future__ import annotations

import json
import os
import pickle
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from embedseg_large.clustering.settings import ClusteringSettings
from embedseg_large.errors import ModelError, OutputError, UsageError
from embedseg_large.models import bundled_models
from embedseg_large.network.checkpoint import load_model
from embedseg_large.network.erfnet import BranchedERFNet
from embedseg_large.network.model import Model
from embedseg_large.network.settings import ModelSettings, Thresholds
from embedseg_large.segmentation.options import SegmentOptions
from embedseg_large.segmentation.segmenters.network_segmenter import NetworkSegmenter
from embedseg_large.segmentation.settings import SegmentSettings

SCRIPTS = Path(__file__).parents[3] / "scripts"

PROPERTIES: dict[str, Any] = {
    "min_object_size": 11,
    **{f"avg_object_size_{a}": n for a, n in zip("yx", (10.0, 14.0), strict=True)},
    **{f"stdev_object_size_{a}": n for a, n in zip("yx", (2.0, 0.1), strict=True)},
    **{f"grid_{a}": n for a, n in zip("yx", (513, 1025), strict=True)},
    **{f"pixel_{a}": 1.0 for a in "yx"},
}


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    settings = ModelSettings.from_objects(
        pitch=(0.02, 0.03), extent=(20, 24), min_object_size=9, voxel_size=(0.5, 0.4)
    )
    return Model(BranchedERFNet(2).state_dict(), settings, card={"data": "größer"})


@pytest.fixture
def folder(tmp_path: Path, model: Model) -> Path:
    """A checkpoint as the original writes it, from a network in DataParallel."""
    state = {f"module.{name}": tensor for name, tensor in model.weights.items()}
    content = {"epoch": 3, "best_iou": 0.5, "model_state_dict": state, "optim_state_dict": {}}
    torch.save(content, tmp_path / "best_iou_model.pth")
    (tmp_path / "data_properties.json").write_text(json.dumps(PROPERTIES))
    return tmp_path


def change_properties(folder: Path, **changes: Any) -> None:
    values = {k: v for k, v in {**PROPERTIES, **changes}.items() if v is not None}
    (folder / "data_properties.json").write_text(json.dumps(values))


def test_a_saved_model_comes_back_entirely(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    assert again.fingerprint == model.fingerprint
    assert again.settings == model.settings
    assert again.card == model.card


def test_a_model_has_thresholds_of_its_own_for_augmentations(model: Model, tmp_path: Path) -> None:
    found = {"none": Thresholds(0.8, 0.45), "8": Thresholds(0.6, 0.35)}
    settings = replace(model.settings.with_thresholds(found), keep_largest_piece=True)
    Model(model.weights, settings).save(tmp_path / "tuned")
    tuned = load_model(tmp_path / "tuned")
    assert tuned.settings == settings
    assert (tuned.seed, tuned.margin, tuned.settings.keep_largest_piece) == (0.8, 0.45, True)
    assert [tuned.settings.thresholds_of(mode) for mode in ("none", "4", "8")] == [
        (0.8, 0.45),
        (0.8, 0.45),
        (0.6, 0.35),
    ]
    again = settings.with_thresholds({"4": Thresholds(0.7, 0.5)})
    assert [own.mode for own in again.thresholds] == ["4", "8"]


def test_a_file_without_margins_has_those_of_the_paper(model: Model, tmp_path: Path) -> None:
    later = ("margin", "thresholds", "keep_largest_piece", "fill_holes")
    old = {k: v for k, v in model.settings.as_dict().items() if k not in later}
    header = {"version": 1, "settings": old, "card": {}}
    metadata = {"embedseg_large": json.dumps(header)}
    safetensors.torch.save_file(dict(model.weights), tmp_path / "old", metadata)
    loaded = load_model(tmp_path / "old")
    assert {tuple(loaded.thresholds_of(mode)) for mode in loaded.tta_modes} == {(loaded.seed, 0.5)}
    assert (loaded.settings.keep_largest_piece, loaded.settings.fill_holes) == (False, False)
    assert loaded.fingerprint == model.fingerprint


def test_predictions_do_not_depend_on_what_is_made_of_them(model: Model) -> None:
    tuned = model.settings.with_thresholds({"8": Thresholds(0.6, 0.35)})
    assert Model(model.weights, tuned).fingerprint == model.fingerprint


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ({"5": {"seed": 0.5, "margin": 0.5}}, "4, 8, 16, 48"),
        ({"8": {"seed": 1.5, "margin": 0.5}}, "seed is 1.5"),
        ({"8": {"seed": 0.5, "margin": 1.0}}, "margin is 1.0"),
        ({"8": {"seed": 0.5}}, "margin"),
        ({"8": {"seed": "a", "margin": 0.5}}, "header cannot be used"),
        ({"8": 0.5}, "header cannot be used"),
        ([0.5], "header cannot be used"),
    ],
)
def test_thresholds_that_cannot_be_used_are_refused(
    model: Model, tmp_path: Path, thresholds: Any, message: str
) -> None:
    settings = model.settings.as_dict() | {"thresholds": thresholds}
    header = json.dumps({"version": 1, "settings": settings, "card": {}})
    metadata = {"embedseg_large": header}
    safetensors.torch.save_file(dict(model.weights), tmp_path / "model", metadata)
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path / "model")


@pytest.mark.parametrize("margin", [0.0, 1.0, -0.1, float("nan")])
def test_a_margin_lies_between_0_and_1(model: Model, margin: float) -> None:
    with pytest.raises(UsageError, match="margin is"):
        replace(model.settings, margin=margin)
    with pytest.raises(UsageError, match="margin is"):
        ClusteringSettings(margin=margin)


def test_a_run_takes_the_thresholds_of_its_augmentation(model: Model) -> None:
    square = replace(model.settings, pitch=(0.02, 0.02), voxel_size=None)
    tuned = square.with_thresholds({"8": Thresholds(0.6, 0.35)})
    network = Model(model.weights, tuned)

    def settings(**options: Any) -> SegmentSettings:
        return NetworkSegmenter(network).settings((64, 64), "cpu", SegmentOptions(**options))

    one, eight = settings(tta="none"), settings(tta="8")
    assert (one.seed, one.margin, eight.seed, eight.margin) == (0.9, 0.5, 0.6, 0.35)
    stated = settings(tta="8", seed=0.7, margin=0.5)
    assert (stated.seed, stated.clustering().margin) == (0.7, 0.5)


def test_the_same_model_gives_the_same_file(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "a")
    model.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_half_the_size_rounds_kernels_only(model: Model, tmp_path: Path) -> None:
    small = {name: tensor.clone() for name, tensor in model.weights.items()}
    small["encoder.initial_block.bn.running_var"].fill_(1e-9)
    small["encoder.initial_block.conv.weight"].view(-1)[0] = 1e6  # more than float16 holds
    Model(small, model.settings).save(tmp_path / "half", dtype="float16")
    again = load_model(tmp_path / "half")
    model.save(tmp_path / "full")
    assert (tmp_path / "half").stat().st_size < 0.55 * (tmp_path / "full").stat().st_size
    for name, tensor in again.weights.items():
        assert tensor.dtype == small[name].dtype
        exact = tensor.ndim < 2 or name == "encoder.initial_block.conv.weight"
        assert torch.allclose(tensor, small[name], rtol=0 if exact else 1e-3, atol=6e-8)
    assert (again.weights["encoder.initial_block.bn.running_var"] == 1e-9).all()


def test_weights_cannot_be_stored_as_anything_else(model: Model, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="use float32 or float16"):
        model.save(tmp_path / "model", dtype="int8")


def test_a_save_that_fails_leaves_the_old_file(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        model.save(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [path.name]  # noqa: PTH208


def test_a_folder_that_is_not_there_cannot_be_written_to(model: Model, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file"):
        model.save(tmp_path / "nowhere" / "model.safetensors")


def test_an_original_checkpoint_is_read(folder: Path, model: Model) -> None:
    loaded = load_model(folder)
    assert all(torch.equal(t, model.weights[name]) for name, t in loaded.weights.items())
    assert (loaded.ndim, loaded.channels, loaded.min_object_size) == (2, 1, 11)
    assert loaded.pitch == (1 / 512, 1 / 1024)
    assert loaded.object_diameter == 12
    assert loaded.extent == loaded.halo == (16, 15)  # mean and three deviations, rounded up
    assert loaded.voxel_size is None


def test_an_original_checkpoint_may_name_extents_and_voxel_size(folder: Path) -> None:
    change_properties(folder, extent_y=33, extent_x=21.5, voxel_size_y=0.4, voxel_size_x=0.4)
    loaded = load_model(folder)
    assert loaded.extent == (33, 22)
    assert loaded.voxel_size == (0.4, 0.4)


def test_the_last_checkpoint_serves_where_there_is_no_best_one(folder: Path) -> None:
    (folder / "best_iou_model.pth").rename(folder / "checkpoint.pth")
    assert load_model(folder).ndim == 2


class Nasty:
    """What a pickle could be made to run."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("false",)


def test_a_checkpoint_that_could_run_code_is_refused_and_the_code_named(folder: Path) -> None:
    torch.save({"model_state_dict": Nasty()}, folder / "best_iou_model.pth")
    with pytest.raises(ModelError, match=r"refers to (posix|nt)\.system, .* could run code"):
        load_model(folder)


@pytest.mark.parametrize("protocol", [2, pickle.DEFAULT_PROTOCOL])
def test_a_bare_pickle_is_refused(folder: Path, protocol: int) -> None:
    (folder / "best_iou_model.pth").write_bytes(pickle.dumps(Nasty(), protocol))
    with pytest.raises(ModelError, match="could run code"):
        load_model(folder)


@pytest.mark.parametrize("content", [{"epoch": 3}, [1], {"model_state_dict": {"a": 1}}])
def test_a_checkpoint_without_weights_is_refused(folder: Path, content: Any) -> None:
    torch.save(content, folder / "best_iou_model.pth")
    with pytest.raises(ModelError, match="no tensors under model_state_dict"):
        load_model(folder)


def test_a_damaged_checkpoint_is_refused(folder: Path) -> None:
    path = folder / "best_iou_model.pth"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot be read as a torch checkpoint"):
        load_model(folder)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("decoders.1.output_conv.bias", None, "decoders.1.output_conv.bias is missing"),
        ("decoders.1.output_conv.bias", torch.zeros(3), r"is \(3,\) instead of \(1,\)"),
        ("decoders.2.output_conv.bias", torch.zeros(3), "is not part of the network"),
        ("encoder.initial_block.conv.weight", None, "it is not an EmbedSeg checkpoint"),
        ("encoder.initial_block.conv.weight", torch.zeros(2), "must have 4 or 5 axes"),
        ("encoder.initial_block.conv.weight", torch.zeros(1, 40, 3, 3), "has 1 to 15 image ch"),
        ("encoder.initial_block.conv.weight", torch.zeros(16, 0, 3, 3), "has 1 to 15 image ch"),
    ],
)
def test_tensors_of_another_network_are_named(
    folder: Path, model: Model, name: str, tensor: torch.Tensor | None, message: str
) -> None:
    weights: dict[str, Any] = {**model.weights, name: tensor}
    state = {k: t for k, t in weights.items() if t is not None}
    torch.save({"model_state_dict": state}, folder / "best_iou_model.pth")
    with pytest.raises(ModelError, match=message):
        load_model(folder)


@pytest.mark.parametrize("name", ["decoders.1.output_conv.bias", "anything"])
def test_a_tensor_that_repeats_one_number_takes_no_memory(
    folder: Path, model: Model, name: str
) -> None:
    huge = torch.zeros(1, dtype=torch.float16).expand(2**50)
    content = {"model_state_dict": {**model.weights, name: huge}}
    torch.save(content, folder / "best_iou_model.pth")
    with pytest.raises(ModelError, match=f"{name} is"):
        load_model(folder)


def complex_of(tensor: Tensor) -> Tensor:
    return tensor.to(torch.complex64)


@pytest.mark.parametrize("turned", [Tensor.long, Tensor.bool, Tensor.to_sparse, complex_of])
def test_tensors_that_are_no_weights_are_refused(
    folder: Path, model: Model, tmp_path: Path, turned: Callable[[Tensor], Tensor]
) -> None:
    name = "encoder.initial_block.conv.weight"
    weights = {**model.weights, name: turned(model.weights[name])}
    torch.save({"model_state_dict": weights}, folder / "best_iou_model.pth")
    with pytest.raises(ModelError, match=f"tensor {name} holds torch"):
        load_model(folder)
    if weights[name].layout is torch.strided:  # safetensors stores no other
        header = json.dumps({"version": 1, "settings": model.settings.as_dict(), "card": {}})
        safetensors.torch.save_file(weights, tmp_path / "model", {"embedseg_large": header})
        with pytest.raises(ModelError, match=f"tensor {name} holds torch"):
            load_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid_x": None}, "lacks grid_x; add it"),
        ({"min_object_size": None}, "lacks min_object_size"),
        ({"grid_y": 1}, "a value cannot be used"),
        ({"pixel_y": -1.0}, "pitch is"),
        ({"min_object_size": "many"}, "a value cannot be used"),
    ],
)
def test_properties_that_cannot_be_used_are_named(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    change_properties(folder, **changes)
    with pytest.raises(ModelError, match=message):
        load_model(folder)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "cannot be read"), ("[]", "not a JSON object")]
)
def test_properties_that_are_not_an_object_are_refused(
    folder: Path, text: str, message: str
) -> None:
    (folder / "data_properties.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        load_model(folder)


def test_missing_properties_are_asked_for(folder: Path) -> None:
    (folder / "data_properties.json").unlink()
    with pytest.raises(ModelError, match=r"data_properties\.json is missing"):
        load_model(folder)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"neither best_iou_model\.pth nor checkpoint\.pth"):
        load_model(tmp_path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, other)
    with pytest.raises(ModelError, match="was not saved by embedseg_large"):
        load_model(other)
    other.write_text("an image")
    with pytest.raises(ModelError, match="no model file"):
        load_model(other)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"version": 2}, "version 2 of the model format, this release reads version 1"),
        ({"settings": {}}, "its header cannot be used"),
        ({"settings": {"depth": 3}}, "its header cannot be used .*depth"),
        ({"settings": None}, "its header cannot be used"),
    ],
)
def test_a_header_that_cannot_be_used_is_named(
    model: Model, tmp_path: Path, header: dict[str, Any], message: str
) -> None:
    good = {"version": 1, "settings": model.settings.as_dict(), "card": {}}
    metadata = {"embedseg_large": json.dumps({**good, **header})}
    safetensors.torch.save_file(dict(model.weights), tmp_path / "model", metadata)
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path / "model")


def test_the_bundling_script_adds_a_card_and_what_validation_chose(
    model: Model, tmp_path: Path
) -> None:
    model.save(tmp_path / "trained")
    (tmp_path / "card.json").write_text('{"name": "balls", "data": "none"}')
    (tmp_path / "scores.json").write_text("[]")
    main = runpy.run_path(str(SCRIPTS / "bundle_model.py"))["main"]
    files = [str(tmp_path / name) for name in ("trained", "card.json")]
    more = ["--scores", str(tmp_path / "scores.json"), "--models", str(tmp_path)]
    main([*files, *more, "--seed", "0.8", "--context", "16"])
    bundled = load_model(tmp_path / "balls.safetensors")
    assert bundled.card == {"name": "balls", "data": "none", "scores": [], "training": model.card}
    assert (bundled.seed, bundled.context) == (0.8, (16,) * model.ndim)
    assert (bundled.pitch, bundled.halo) == (model.pitch, model.halo)


def test_a_name_that_is_nothing_lists_the_bundled_models() -> None:
    with pytest.raises(ModelError, match=r"no model 'nucleii': .*bundled name \(.*nuclei-3d.*\)"):
        load_model("nucleii")


def test_the_bundled_model_is_ready_to_use() -> None:
    assert "nuclei-3d" in bundled_models()
    model = load_model("nuclei-3d")
    assert (model.ndim, model.channels, model.min_object_size) == (3, 1, 32)
    assert model.pitch == pytest.approx((1 / 63,) * 3)
    assert model.halo == model.extent == (40, 40, 40)
    assert model.seed == 0.9
    assert model.tile == (192, 192, 192)
    assert model.context == (16, 16, 16)
    assert model.tta_mode(True) == "16"
    assert {"data", "data_licence", "training", "scores", "limits"} <= set(model.card)


def test_the_bundled_model_finds_a_bright_ball() -> None:
    z, y, x = np.indices((24, 32, 32)) - np.array([12, 16, 16]).reshape(3, 1, 1, 1)
    ball = (z**2 + y**2 + x**2 < 7.5**2).astype(np.float32)
    model = load_model("nuclei-3d")
    embedding = model.predict(ball, tta=False)
    assert embedding.seeds[12, 16, 16] > model.seed
    assert embedding.seeds[0, 0, 0] < 0.5
    target = embedding.offsets + np.indices(ball.shape)
    np.testing.assert_allclose(target[:, 9, 16, 20], [12, 16, 16], atol=2)


def test_the_bundled_model_for_images_finds_a_bright_disc() -> None:
    y, x = np.indices((64, 64)) - np.array([32, 30]).reshape(2, 1, 1)
    disc = (y**2 + x**2 < 11**2).astype(np.float32)
    model = load_model("nuclei-2d")
    assert (model.ndim, model.seed, model.tta_mode(True)) == (2, 0.85, "8")
    embedding = model.predict(disc, tta=False)
    assert embedding.seeds[32, 30] > model.seed
    assert embedding.seeds[0, 0] < 0.5
