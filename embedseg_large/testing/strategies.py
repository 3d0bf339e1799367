"""Hypothesis strategies for label volumes and for ways to cut them; needs hypothesis."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedseg_large.geometry import Box
from embedseg_large.testing.objects import Flaws
from embedseg_large.testing.synthetic import synthetic_embryo

_LONGEST = {2: 48, 3: 24}  # edge of a volume, by ndim


@st.composite
def embryos(
    draw: st.DrawFn, ndims: tuple[int, ...] = (2, 3), longest: int | None = None
) -> NDArray[np.uint32]:
    """Small label volumes of touching or lone cells.

    Parameters
    ----------
    draw
        Given by hypothesis.
    ndims
        Numbers of axes to choose from.
    longest
        Longest edge, in voxels; default 48 in 2D and 24 in 3D.
    """
    shape = draw(shapes(ndims, longest))
    return synthetic_embryo(
        shape,
        diameter=draw(st.sampled_from([4.0, 7.0, 11.0])),
        density=draw(st.sampled_from([0.1, 0.6, 1.2])),
        spacing=draw(st.sampled_from([0.6, 0.8, 1.2])),
        anisotropy=draw(st.sampled_from([1.0, 2.0])),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


@st.composite
def label_pairs(
    draw: st.DrawFn, ndims: tuple[int, ...] = (2, 3)
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Label volumes of one shape that agree in part: moved, merged, split, lost, or unrelated."""
    truth = draw(embryos(ndims, longest=20))
    steps = [draw(st.integers(-2, 2)) for _ in truth.shape]
    prediction = np.roll(truth, steps, tuple(range(truth.ndim)))
    n = int(truth.max())
    renamed = [0] + [draw(st.integers(0, n)) for _ in range(min(n, 4))]
    for old, new in enumerate(renamed):
        prediction = np.where(prediction == old, np.uint32(new), prediction)
    if draw(st.booleans()):
        half = prediction[: len(prediction) // 2]
        half[half > 0] += np.uint32(n)
    return (truth, prediction) if draw(st.booleans()) else (prediction, truth)


@st.composite
def shapes(
    draw: st.DrawFn, ndims: tuple[int, ...] = (2, 3), longest: int | None = None
) -> tuple[int, ...]:
    """Shapes of volumes, down to a single voxel."""
    ndim = draw(st.sampled_from(ndims))
    most = longest or _LONGEST[ndim]
    return tuple(draw(st.integers(1, most)) for _ in range(ndim))


@st.composite
def cuts(draw: st.DrawFn, shape: tuple[int, ...]) -> list[Box]:
    """Boxes that cover a volume without overlap, in any order."""
    step = tuple(draw(st.integers(1, n)) for n in shape)
    return draw(st.permutations(list(Box.whole(shape).split(step))))


def flaws() -> st.SearchStrategy[Flaws]:
    """Ways for predictions to be wrong: noise, plateaus of equal seeds, offsets gone astray."""
    return st.builds(
        Flaws,
        noise=st.sampled_from([0.0, 0.5, 3.0]),
        jitter=st.sampled_from([0.0, 0.5]),
        plateau=st.booleans(),
        stray=st.sampled_from([0.0, 0.02]),
        stray_length=st.sampled_from([5.0, 60.0]),
        seed=st.integers(0, 2**32 - 1),
    )
