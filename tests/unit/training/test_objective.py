"""What a fine-tuned model keeps of the model it starts from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from embedseg_large.embedding import Embedding
from embedseg_large.methods.of_model import method_of, scale_of
from embedseg_large.methods.registry import field_method
from embedseg_large.network.backbones import new_network
from embedseg_large.network.model import Model
from embedseg_large.network.settings import ModelSettings, ModeThresholds
from embedseg_large.training.data.properties import Properties, measure
from embedseg_large.training.data.sources import find_pairs
from embedseg_large.training.decoding import MethodDecoder
from embedseg_large.training.objective import model_settings
from embedseg_large.training.settings import TrainSettings


def start_settings(extent: int, **changed: Any) -> ModelSettings:
    """Of a model whose thresholds were tuned, for objects of that extent."""
    own = ModelSettings.from_objects(
        pitch=(1 / 63,) * 2, extent=(extent, extent), min_object_size=9, context=(32, 32)
    )
    tuned = replace(
        own,
        margin=0.3,
        thresholds=(ModeThresholds("4", 0.9, 0.3), ModeThresholds("8", 0.8, 0.4)),
        fill_holes=True,
        keep_largest_piece=True,
    )
    return replace(tuned, **changed)


def model_of(settings: ModelSettings) -> Model:
    return Model(new_network(settings).state_dict(), settings)


def data(edge: int) -> Properties:
    """Of one image with a square object of that edge."""
    labels = np.zeros((64, 64), np.int32)
    labels[8 : 8 + edge, 8 : 8 + edge] = 1
    image = np.random.default_rng(0).random(labels.shape, np.float32)
    return measure(find_pairs([image], [labels]), crop=(64, 64))


@pytest.mark.parametrize(("edge", "extent"), [(12, 40), (48, 48)])
def test_a_tuned_model_keeps_what_was_tuned_and_the_larger_sizes(edge: int, extent: int) -> None:
    start = start_settings(40)
    assert start.reach == (60, 60)
    found = model_settings(data(edge), TrainSettings(), model_of(start))
    assert found.object_diameter == edge
    assert found.min_object_size == edge**2
    assert found.extent == found.halo == (extent, extent)
    assert found.reach == (1.5 * extent, 1.5 * extent)
    measured = ("extent", "halo", "reach", "object_diameter", "min_object_size")
    same = {name: getattr(start, name) for name in measured}
    assert replace(found, **same) == start


def test_another_method_keeps_the_units_of_its_fields_and_all_its_knobs() -> None:
    scale = scale_of(start_settings(40))
    method = field_method("flows", scale)
    start = start_settings(
        40, method="flows", fields=method.fields, halo=method.halo, knobs=(("foreground", 0.3),)
    )
    found = model_settings(data(48), TrainSettings(method="flows"), model_of(start))
    assert replace(found, object_diameter=None, min_object_size=9) == start
    last = method.knobs[-1].name
    tuned = MethodDecoder(replace(found, knobs=((last, 0.7),)), method_of(found)).settled(0.2)
    assert dict(tuned.knobs) == {last: 0.7, method.knobs[0].name: 0.2}


@pytest.mark.parametrize(
    ("seed", "seeds"), [(0.9, (0.9, 0.8)), (0.45, (0.45, 0.4)), (1.0, (1.0, 0.8889))]
)
def test_seeds_of_augmentations_follow_that_of_one_pass(
    seed: float, seeds: tuple[float, float]
) -> None:
    settled = MethodDecoder(start_settings(40), None).settled(seed)
    assert settled.seed == seed
    assert tuple(own.seed for own in settled.thresholds) == seeds
    assert [own.margin for own in settled.thresholds] == [0.3, 0.4]
    assert settled.margin == 0.3


def test_a_seed_is_chosen_with_the_margin_of_the_model() -> None:
    offsets = np.zeros((2, 1, 9), np.float32)
    sigmas = np.full((2, 1, 9), 2.0, np.float32)
    seeds = np.full((1, 9), 0.8, np.float32)
    seeds[0, 4] = 0.95
    embedding = Embedding(offsets, sigmas, seeds)
    found = [
        MethodDecoder(start_settings(40, margin=margin, min_object_size=0), None).labels(
            embedding, 0.9
        )
        for margin in (0.1, 0.9)
    ]
    sizes = [np.count_nonzero(labels) for labels in found]
    assert sizes[0] > sizes[1]
