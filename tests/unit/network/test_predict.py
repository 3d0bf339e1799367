"""A model predicts images of any size, the same to the last bit however many lanes it uses."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from embedseg_large.embedding import Quiet, dequantise, quantise
from embedseg_large.errors import ModelError, RunError, UsageError
from embedseg_large.geometry import Box
from embedseg_large.network.device import default_dtype, lanes_that_fit, passes_that_fit
from embedseg_large.network.erfnet import BranchedERFNet
from embedseg_large.network.memory import Memory
from embedseg_large.network.model import Model
from embedseg_large.network.settings import ModelSettings
from embedseg_large.segmentation.segmenters.loading import OneAtATime
from embedseg_large.symmetry import group


def make_model(ndim: int = 3, channels: int = 1, **settings: Any) -> Model:
    """Return a model with random weights that answers differently everywhere."""
    torch.manual_seed(0)
    network = BranchedERFNet(ndim, channels)
    for decoder in network.decoders:
        torch.nn.init.normal_(decoder.get_submodule("output_conv").get_parameter("weight"))
    defaults: dict[str, Any] = {"pitch": (0.05,) * ndim, "extent": (9,) * ndim}
    made = ModelSettings.from_objects(
        **{"min_object_size": 5, "channels": channels, **defaults, **settings}
    )
    return Model(network.state_dict(), made, card={"data": "none"}, lanes=2)


def make_image(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).random(shape, dtype=np.float32)


@pytest.fixture(scope="module")
def model() -> Model:
    return make_model()


def test_lanes_leave_no_trace(model: Model) -> None:
    image = make_image(9, 16, 20)
    one, two, three = (model.to(lanes=n).predict_raw(image, tta=True) for n in (1, 2, 3))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_one_pass_is_enough_where_it_finds_nothing_in_the_core(model: Model, lanes: int) -> None:
    image = make_image(9, 16, 20)
    core = (slice(2, 7), slice(4, 12), slice(0, 10))
    every, placed = model.predict_raw(image, 16), model.to(lanes=lanes)
    ways = [placed.predict_raw(image, 16, Quiet(core, bound)) for bound in (0.999999, 1e-6)]
    np.testing.assert_array_equal(ways[1], every)
    assert not np.array_equal(ways[0], every)
    first = ways[0][-1][core].max()
    seediness = float(1 / (1 + np.exp(-np.float64(first))))
    for bound, enough in ((seediness * 1.001, True), (seediness * 0.999, False)):
        found = placed.predict_raw(image, 16, Quiet(core, bound))
        np.testing.assert_array_equal(found, ways[0] if enough else every)


def test_without_augmentation_the_one_pass_is_all(model: Model) -> None:
    image = make_image(8, 8, 8)
    quiet = Quiet((slice(None),) * 3, 0.5)
    np.testing.assert_array_equal(
        model.predict_raw(image, "none", quiet), model.predict_raw(image, "none")
    )


def test_a_model_that_is_entered_one_at_a_time_answers_the_same(model: Model) -> None:
    image = make_image(8, 16, 16)
    alone = model.predict_tile(image, Box.whole(image.shape), "none")
    shared = OneAtATime(model).predict_tile(image, Box.whole(image.shape), "none")
    np.testing.assert_array_equal(shared, alone)
    quiet = Quiet((slice(None),) * 3, 0.999999)
    alone = model.predict_tile(image, Box.whole(image.shape), "4", quiet)
    shared = OneAtATime(model).predict_tile(image, Box.whole(image.shape), "4", quiet=quiet)
    np.testing.assert_array_equal(shared, alone)


def test_threads_of_torch_leave_no_trace(model: Model) -> None:
    image, before = make_image(16, 24, 24), torch.get_num_threads()
    results = {}
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results[threads] = model.predict_raw(image)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(results[1], results[2])


@pytest.mark.parametrize("shape", [(8, 8, 8), (13, 17, 9), (2, 30, 8), (1, 1, 1)])
def test_an_image_of_any_size_gives_channels_of_that_size(
    model: Model, shape: tuple[int, ...]
) -> None:
    raw = model.predict_raw(make_image(*shape))
    assert raw.shape == (7, *shape)
    assert raw.dtype == np.float32


def test_the_far_end_is_padded_by_reflection(model: Model) -> None:
    image = make_image(16, 13, 8)
    padded = np.pad(image, [(0, 0), (0, 3), (0, 0)], mode="reflect")
    np.testing.assert_array_equal(model.predict_raw(image), model.predict_raw(padded)[:, :, :13])


def test_an_axis_too_thin_to_reflect_is_padded_by_its_last_voxel(model: Model) -> None:
    image = make_image(3, 16, 16)
    padded = np.pad(image, [(0, 5), (0, 0), (0, 0)], mode="edge")
    np.testing.assert_array_equal(model.predict_raw(image), model.predict_raw(padded)[:, :3])


def test_an_embedding_is_the_rounded_prediction(model: Model) -> None:
    image = make_image(10, 16, 16)
    stored = quantise(model.predict_raw(image, tta=True), model.pitch)
    embedding, expected = model.predict(image), dequantise(stored)
    np.testing.assert_array_equal(embedding.offsets, expected.offsets)
    np.testing.assert_array_equal(embedding.sigmas, expected.sigmas)
    np.testing.assert_array_equal(embedding.seeds, expected.seeds)
    tile = model.predict_tile(image[None], Box.whole(image.shape), True)
    np.testing.assert_array_equal(tile, stored)


@pytest.mark.parametrize(("ndim", "mode"), [(2, "8"), (3, "16"), (3, "48")])
def test_an_augmented_prediction_turns_with_the_image(ndim: int, mode: str) -> None:
    model = make_model(ndim, voxel_size=(1.0,) * ndim)
    image = make_image(*(8,) * ndim)
    embedding = model.predict_raw(image, mode)
    p = group(mode, ndim)[-2]
    turned = model.predict_raw(np.ascontiguousarray(p.apply(image)), mode)
    offsets = p.apply_vectors(embedding[ndim - 1 :: -1])
    np.testing.assert_allclose(turned[ndim - 1 :: -1], offsets, atol=1e-5 * embedding.std())
    seeds = p.apply(embedding[-1])
    np.testing.assert_allclose(turned[-1], seeds, atol=1e-5 * embedding.std())


def test_several_channels_are_read() -> None:
    model = make_model(2, channels=2)
    image = make_image(2, 16, 16)
    swapped = model.predict_raw(image[::-1])
    assert not np.allclose(model.predict_raw(image), swapped)


def test_number_formats_agree_about_the_image(model: Model) -> None:
    image = make_image(16, 16, 16)
    exact, rough = model.predict_raw(image), model.to(dtype="bfloat16").predict_raw(image)
    assert rough.dtype == np.float32
    assert 0 < np.abs(rough - exact).std() < 0.05 * exact.std()


def test_the_default_augmentation_is_the_largest_without_exchanging_z() -> None:
    assert make_model(3).tta_mode(True) == "16"
    assert make_model(3, voxel_size=(1.0, 1.0, 1.0)).tta_mode(True) == "16"
    assert make_model(2).tta_mode(True) == "8"
    assert make_model(3, pitch=(0.1, 0.1, 0.2)).tta_mode(True) == "none"


@pytest.mark.parametrize(
    ("tta", "mode"), [(False, "none"), ("none", "none"), (1, "none"), (4, "4"), ("8", "8")]
)
def test_an_augmentation_is_named_or_numbered(model: Model, tta: int | str, mode: str) -> None:
    assert model.tta_mode(tta) == mode


def test_an_augmentation_the_model_cannot_use_is_refused(model: Model) -> None:
    assert model.tta_modes == ("none", "4", "8", "16")
    with pytest.raises(UsageError, match="voxel size of the training is not known; use one of"):
        model.predict_raw(make_image(8, 8, 8), tta="48")
    with pytest.raises(UsageError, match="no symmetry mode '5' in 3D"):
        model.tta_mode("5")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (make_image(8, 8), "needs 1 channel"),
        (make_image(2, 8, 8, 8), "needs 1 channel"),
        (make_image(0, 8, 8), "needs 1 channel"),
        (np.ones((8, 8, 8), np.uint16), "normalise"),
        (np.full((8, 8, 8), np.nan, np.float32), "NaN"),
    ],
)
def test_an_image_the_model_cannot_read_is_refused(
    model: Model, image: NDArray[Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        model.predict_raw(image)


def test_a_network_that_answers_nan_is_an_error(model: Model) -> None:
    weights = {k: t.clone() for k, t in model.weights.items()}
    weights["decoders.1.output_conv.bias"].fill_(torch.nan)
    with pytest.raises(ModelError, match="infinities or NaN"):
        Model(weights, model.settings).predict(make_image(8, 8, 8))


def test_the_fingerprint_stands_for_weights_and_settings(model: Model) -> None:
    weights = {k: t.clone() for k, t in model.weights.items()}
    assert Model(weights, model.settings).fingerprint == model.fingerprint
    assert model.to(dtype="bfloat16", lanes=1).fingerprint == model.fingerprint
    other = replace(model.settings, reach=(1.0, 2.0, 3.0))
    assert Model(weights, other).fingerprint != model.fingerprint
    weights["decoders.1.output_conv.bias"] += 1
    assert Model(weights, model.settings).fingerprint != model.fingerprint


def test_a_model_does_not_follow_the_network_it_was_made_from(model: Model) -> None:
    weights = {k: t.clone() for k, t in model.weights.items()}
    copy = Model(weights, model.settings)
    weights["decoders.1.output_conv.bias"] += 1
    assert copy.fingerprint == model.fingerprint


def test_making_a_model_draws_no_random_numbers(model: Model) -> None:
    state = torch.get_rng_state()
    model.to(lanes=1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("free", "expected"), [(0.5, 1), (1.0, 4), (100.0, 16)])
def test_as_many_lanes_as_fit_into_half_of_the_free_memory(
    free: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = SimpleNamespace(available=free * 1e9)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    assert lanes_that_fit(16, 1_000_000, 230.0, 90.0) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float8"}, "dtype is 'float8'; use one of float32, bfloat16, float16"),
        ({"device": "tpu9"}, "device is 'tpu9'; use cpu, cuda or mps"),
        ({"lanes": -1}, "lanes is -1"),
    ],
)
def test_a_place_that_is_not_there_is_refused(
    model: Model, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        model.to(**change)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("ndim", 4, "2 or 3 spatial axes"),
        ("tile", (64, 60, 64), r"tile is \(64, 60, 64\); use multiples of 8"),
        ("context", (4, 8, 8), "context .* multiples of 8"),
        ("pitch", (0.1, 0.1), "pitch .* 3 positive numbers"),
        ("halo", (-8, 8, 8), "halo .* 3 non-negative numbers"),
        ("voxel_size", (0.0, 1.0, 1.0), "voxel_size .* 3 positive"),
        ("channels", 0, "at least 1"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(
    model: Model, field: str, value: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        replace(model.settings, **{field: value})


def test_halo_and_reach_follow_from_the_extent(model: Model) -> None:
    assert model.halo == model.extent == (9, 9, 9)
    assert model.reach == (13.5, 13.5, 13.5)


def test_where_memory_is_short_passes_run_one_by_one(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.random.default_rng(0).random((16, 16, 16)).astype(np.float32)
    expected = model.predict_raw(image, tta=16)
    forward, running = Model._forward, []

    def short_of_memory(self: Model, part: torch.Tensor, memory: Memory) -> torch.Tensor:
        running.append(part)
        if len(running) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        time.sleep(0.05)
        try:
            return forward(self, part, memory)
        finally:
            running.clear()

    monkeypatch.setattr(Model, "_forward", short_of_memory)
    wide = model.to(lanes=2)
    np.testing.assert_array_equal(wide.predict_raw(image, tta=16), expected)


def test_too_little_memory_for_one_pass_is_one_line(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(self: Model, part: torch.Tensor, memory: Memory) -> torch.Tensor:
        del self, part, memory
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory\nat some line")

    monkeypatch.setattr(Model, "_forward", none_left)
    with pytest.raises(RunError, match=r"shape \(1, 16, 16, 16\) does not fit .* smaller tile"):
        model.predict_raw(np.zeros((16, 16, 16), np.float32))


@pytest.mark.parametrize("shape", [(8, 16, 16), (9, 16, 20)])
def test_turned_images_may_be_answered_in_batches(
    model: Model, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    image = make_image(*shape)
    expected = model.predict_raw(image, tta=16)
    sizes = on_a_stand_in_for_a_gpu(model, monkeypatch, fitting=4)
    found = model.predict_raw(image, tta=16)
    assert sizes == [4, 4, 4, 4]
    np.testing.assert_allclose(found, expected, atol=1e-6 * expected.std())


def test_a_batch_that_does_not_fit_is_halved(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    image = make_image(8, 16, 16)
    expected = model.predict_raw(image, tta=16)
    sizes = on_a_stand_in_for_a_gpu(model, monkeypatch, fitting=16, room=2)
    found = model.predict_raw(image, tta=16)
    assert sizes == [16, 8, 4, *[2] * 8]
    np.testing.assert_allclose(found, expected, atol=1e-6 * expected.std())


def on_a_stand_in_for_a_gpu(
    model: Model, monkeypatch: pytest.MonkeyPatch, fitting: int, room: int = 16
) -> list[int]:
    """Have a model batch its passes as on a GPU; returns the sizes of batches, as they come."""
    sizes: list[int] = []
    network = model._network

    def limited(images: torch.Tensor, memory: Memory) -> torch.Tensor:
        sizes.append(len(images))
        if len(images) > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return network(images, memory)

    monkeypatch.setattr(model, "_network", limited)
    monkeypatch.setattr(Model, "_is_on_cpu", False)
    monkeypatch.setattr(Model, "_passes_at_once", lambda *_: fitting)
    return sizes


@pytest.mark.parametrize(
    ("free", "most", "passes"),
    [(10_000, 16, 1), (10**9, 16, 16), (10**9, 6, 4), (5_000_000, 16, 4)],
)
def test_as_many_passes_as_fit_into_free_memory(
    monkeypatch: pytest.MonkeyPatch, free: int, most: int, passes: int
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 10**10))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: free // 2)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: free // 2)
    assert passes_that_fit("cuda", voxels=4096, most=most) == passes


def test_the_number_format_is_half_only_where_labels_stay_the_same() -> None:
    assert default_dtype("cpu") == "float32"
    assert default_dtype("cuda:1") == "float16"


def test_weights_are_those_given_however_the_network_keeps_them(model: Model) -> None:
    half = model.to(dtype="bfloat16")
    assert all(torch.equal(t, half.weights[name]) for name, t in model.weights.items())
    assert all(t.dtype != torch.bfloat16 for t in half.weights.values())
