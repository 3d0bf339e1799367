"""Whatever a method predicts, turning the image turns it in the same way."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.fields import (
    Field,
    channel_count,
    check_fields,
    direction_obstacle,
    heads,
    turn_fields,
    turned_offset,
)
from embedseg_large.methods.protocol import FieldMethod, ObjectScale
from embedseg_large.methods.registry import FIELD_METHODS
from embedseg_large.network.settings import ModelSettings
from embedseg_large.network.tta import turn_raw
from embedseg_large.symmetry import SignedPermutation, group
from embedseg_large.testing.synthetic import synthetic_embryo

GROUPS = {2: group(8, 2), 3: group(48, 3)}
EDGES = Field(name="edges", kind="edges", directions=((0, 1), (2, 0), (3, -3)))


def method_of(name: str, ndim: int) -> FieldMethod:
    return FIELD_METHODS[name](ObjectScale(ndim=ndim, extent=(8,) * ndim))


def some_labels(ndim: int) -> NDArray[np.int32]:
    """Touching objects, some of them cut, and a corner that is not annotated."""
    labels = synthetic_embryo((22, 15, 18)[-ndim:], diameter=7, seed=ndim).astype(np.int32)
    labels[(slice(0, 5),) * ndim] = -1
    return labels


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", FIELD_METHODS)
def test_the_fields_of_a_turned_image_are_the_turned_fields(name: str, ndim: int) -> None:
    method, labels = method_of(name, ndim), some_labels(ndim)
    fields = method.ideal(method.targets(labels))
    assert len(fields) == channel_count(method.fields) == sum(heads(method.fields))
    for p in GROUPS[ndim]:
        turned = np.ascontiguousarray(p.apply(labels))
        wanted = method.ideal(method.targets(turned))
        found = turn_fields(fields, method.fields, p)
        np.testing.assert_allclose(found, wanted, atol=1e-5, err_msg=str(p))


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", FIELD_METHODS)
def test_tensors_turn_like_arrays(name: str, ndim: int) -> None:
    fields = method_of(name, ndim).fields
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(channel_count(fields), *(5, 4, 6)[-ndim:])).astype(np.float32)
    for p in GROUPS[ndim]:
        found = turn_raw(torch.from_numpy(raw), fields, p).numpy()
        np.testing.assert_array_equal(found, turn_fields(raw, fields, p))


@pytest.mark.parametrize("p", GROUPS[2])
def test_an_edge_still_joins_the_same_two_voxels(p: SignedPermutation) -> None:
    fields = (Field(name="edges", kind="edges", directions=((1, 0), (0, 1))),)
    numbers = np.arange(2 * 12).reshape(2, 3, 4)
    image = p.apply(np.arange(12).reshape(3, 4))
    pairs: dict[int, set[int]] = {}
    for channel, (offset, values) in enumerate(zip(fields[0].directions, numbers, strict=True)):
        for y, x in np.ndindex(3 - offset[0], 4 - offset[1]):
            pairs[int(values[y, x])] = {4 * y + x, 4 * y + x + (4, 1)[channel]}
    turned = turn_fields(numbers, fields, p)
    for offset, values in zip(fields[0].directions, turned, strict=True):
        for at in np.ndindex(image.shape[0] - offset[0], image.shape[1] - offset[1]):
            other = image[tuple(a + o for a, o in zip(at, offset, strict=True))]
            assert pairs[int(values[at])] == {int(image[at]), int(other)}


def test_a_direction_that_is_missing_stands_in_the_way_of_a_mode() -> None:
    assert direction_obstacle("none", (EDGES,), 2) is None
    assert direction_obstacle("4", (EDGES,), 2) == "field 'edges' has no direction (1, 0)"
    with pytest.raises(ValueError, match="no symmetry mode 16 in 2D"):
        direction_obstacle(16, (EDGES,), 2)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", FIELD_METHODS)
def test_the_settings_of_a_model_survive_json(name: str, ndim: int) -> None:
    method = method_of(name, ndim)
    settings = ModelSettings.from_objects(
        pitch=(0.1,) * ndim, extent=method.scale.extent, min_object_size=1
    )
    settings = replace(settings, method=name, fields=method.fields, knobs=(("seed", 0.5),))
    assert ModelSettings.from_dict(json.loads(json.dumps(settings.as_dict()))) == settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "tensor"},
        {"kind": "vector"},
        {"kind": "scalar", "axes": (0, 1)},
        {"kind": "vector", "axes": (0, 2)},
        {"kind": "scalar", "count": 0},
        {"kind": "rays", "directions": ((0, 1), (0, 1))},
        {"kind": "edges", "directions": ((0, 0),)},
    ],
)
def test_a_field_that_does_not_fit_its_kind_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="field 'x'"):
        Field(name="x", **wrong)  # type: ignore[arg-type]


def scalars(*heads: int) -> tuple[Field, ...]:
    return tuple(
        Field(name=f"at {number}", kind="scalar", head=head) for number, head in enumerate(heads)
    )


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", FIELD_METHODS)
def test_a_network_can_predict_the_fields_of_every_method(name: str, ndim: int) -> None:
    check_fields(method_of(name, ndim).fields, ndim)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (scalars(3_000_000), "fields are of heads 3000000; heads count from 0"),
        (scalars(1), "fields are of heads 1;"),
        (scalars(0, 2), "fields are of heads 0, 2;"),
        (scalars(1, 0), "fields are of heads 1, 0;"),
        (scalars(-1, 0), "fields are of heads -1, 0;"),
        (scalars(*range(300)), r"fields are of heads 0, 1, .*, 9 \.\.\.; .* to at most 15"),
        ((Field(name="x", kind="scalar", count=10**12),), "fields have 1000000000000 channels"),
        (
            (Field(name="x", kind="vector", axes=(0, 1, 2)),),
            "field 'x' has 3 axes; the model has 2",
        ),
        ((Field(name="x", kind="rays", directions=((1,),)),), "field 'x' has 1 axes"),
        ((replace(EDGES, directions=((0, 1), (0, 1, 1))),), "field 'edges' has 3 axes"),
    ],
)
def test_fields_that_no_network_predicts_are_refused(fields: tuple[Field, ...], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        check_fields(fields, 2)


def test_turning_an_offset_composes() -> None:
    p, q = GROUPS[3][17], GROUPS[3][30]
    assert turned_offset((1, 2, 3), p @ q) == turned_offset(turned_offset((1, 2, 3), q), p)
