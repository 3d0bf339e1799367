"""For any elements of the group and any field: composing, undoing and turning agree."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedseg_large.symmetry import SignedPermutation, group

elements = st.sampled_from(group(48, 3))
shapes = st.tuples(*[st.integers(1, 4)] * 3)


def numbered(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return vectors that all differ in every component."""
    return 1 + np.arange(3 * np.prod(shape), dtype=np.int64).reshape(3, *shape)


@given(p=elements, q=elements, shape=shapes)
def test_composition_is_one_after_the_other(
    p: SignedPermutation, q: SignedPermutation, shape: tuple[int, ...]
) -> None:
    field = numbered(shape)
    np.testing.assert_array_equal((p @ q).apply(field), p.apply(q.apply(field)))
    np.testing.assert_array_equal(
        (p @ q).apply_vectors(field), p.apply_vectors(q.apply_vectors(field))
    )
    np.testing.assert_array_equal(
        (p @ q).apply_magnitudes(field), p.apply_magnitudes(q.apply_magnitudes(field))
    )


@given(p=elements, shape=shapes)
def test_the_inverse_undoes(p: SignedPermutation, shape: tuple[int, ...]) -> None:
    field = numbered(shape)
    assert p.inverse @ p == p @ p.inverse == SignedPermutation.identity(3)
    np.testing.assert_array_equal(p.inverse.apply_vectors(p.apply_vectors(field)), field)


@given(p=elements, shape=shapes, data=st.data())
def test_a_vector_still_points_at_the_same_voxel(
    p: SignedPermutation, shape: tuple[int, ...], data: st.DataObject
) -> None:
    target = np.array([data.draw(st.integers(0, n - 1)) for n in shape])
    offsets = target.reshape(3, 1, 1, 1) - np.indices(shape)
    marked = np.zeros(shape, bool)
    marked[tuple(target)] = True
    turned = p.apply_vectors(offsets)
    pointed_at = turned + np.indices(turned.shape[1:])
    assert p.apply(marked)[tuple(pointed_at)].all()
