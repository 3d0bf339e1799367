"""The signed permutations of the axes form groups and turn images and fields as they should."""

from __future__ import annotations

import numpy as np
import pytest

from embedseg_large.symmetry import SignedPermutation, group, obstacle

ISOTROPIC = (0.1, 0.1, 0.1)


@pytest.mark.parametrize(
    ("mode", "ndim", "size"),
    [("none", 3, 1), ("4", 3, 4), (8, 3, 8), (16, 3, 16), ("48", 3, 48), (1, 2, 1), (8, 2, 8)],
)
def test_a_group_has_the_size_it_is_named_after(mode: str | int, ndim: int, size: int) -> None:
    elements = group(mode, ndim)
    assert len(elements) == len(set(elements)) == size
    assert elements[0] == SignedPermutation.identity(ndim)


@pytest.mark.parametrize(("mode", "ndim"), [("4", 3), ("8", 3), ("16", 3), ("48", 3), ("8", 2)])
def test_a_group_is_closed(mode: str, ndim: int) -> None:
    elements = set(group(mode, ndim))
    assert {p @ q for p in elements for q in elements} == elements
    assert {p.inverse for p in elements} == elements


def test_sixteen_transforms_leave_z_in_place() -> None:
    assert {p.axes[0] for p in group(16, 3)} == {0}
    assert {p.flips[0] for p in group(8, 3)} == {False}


@pytest.mark.parametrize(("mode", "ndim"), [("16", 2), (48, 2), ("6", 3), ("all", 3)])
def test_a_mode_that_does_not_exist_is_refused_with_the_list(mode: str | int, ndim: int) -> None:
    with pytest.raises(ValueError, match=f"no symmetry mode .*{ndim}D; use one of none, 4, 8"):
        group(mode, ndim)


def test_axes_must_be_a_permutation() -> None:
    with pytest.raises(ValueError, match="no permutation"):
        SignedPermutation((0, 0), (False, True))


def test_a_flip_turns_the_sign_of_its_own_component_only() -> None:
    field = np.arange(1, 17, dtype=np.float32).reshape(2, 2, 4)
    flip = SignedPermutation((0, 1), (False, True))
    turned = flip.apply_vectors(field)
    np.testing.assert_array_equal(turned[0], field[0, :, ::-1])
    np.testing.assert_array_equal(turned[1], -field[1, :, ::-1])


def test_magnitudes_are_exchanged_but_keep_their_sign() -> None:
    field = np.arange(1, 9, dtype=np.float32).reshape(2, 2, 2)
    turned = SignedPermutation((1, 0), (True, False)).apply_magnitudes(field)
    np.testing.assert_array_equal(turned[0], field[1].T[::-1])
    np.testing.assert_array_equal(turned[1], field[0].T[::-1])


def test_leading_axes_stay() -> None:
    array = np.arange(24).reshape(2, 3, 4)
    turned = SignedPermutation((1, 0), (False, False)).apply(array)
    np.testing.assert_array_equal(turned, array.transpose(0, 2, 1))


def test_axes_of_equal_pitch_and_voxel_size_may_be_exchanged() -> None:
    assert obstacle("48", ISOTROPIC, (0.5, 0.5, 0.5)) is None
    assert obstacle("none", (1, 2, 3), None) is None


@pytest.mark.parametrize(
    ("mode", "pitch", "voxel_size", "reason"),
    [
        ("4", (0.1, 0.1, 0.2), None, "y and x, whose pitch differs"),
        ("16", ISOTROPIC, (2.0, 0.5, 0.4), "y and x, whose training voxel size differs"),
        ("48", (0.2, 0.1, 0.1), (1.0, 1.0, 1.0), "z and y, whose pitch differs"),
        ("48", ISOTROPIC, (2.0, 1.0, 1.0), "z and y, whose training voxel size differs"),
        ("48", ISOTROPIC, None, "z and y, and the voxel size of the training is not known"),
    ],
)
def test_axes_that_the_model_can_tell_apart_may_not(
    mode: str, pitch: tuple[float, ...], voxel_size: tuple[float, ...] | None, reason: str
) -> None:
    assert reason in (obstacle(mode, pitch, voxel_size) or "")


def test_pixels_of_unknown_size_count_as_square() -> None:
    assert obstacle("16", (0.3, 0.1, 0.1), None) is None
    assert obstacle("8", (0.1, 0.1), None) is None
