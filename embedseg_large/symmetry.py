"""The symmetries of the voxel grid: signed axis permutations, as one group.

An image, a vector field and a field of magnitudes turn in three different ways. With ``p`` the
quarter turn that carries the x axis onto the y axis::

    p.apply(image)             moves the voxels
    p.apply_vectors(offsets)   moves the voxels, exchanges the components and turns their signs
    p.apply_magnitudes(sigmas) moves the voxels and exchanges the components

Rotations, flips and transpositions are elements of the same group (48 in 3D, 8 in 2D), so that
neither test-time augmentation nor training needs a case for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product
from math import isclose
from typing import Any

import numpy as np
from numpy.typing import NDArray

MODES = ("none", "4", "8", "16", "48")
"""Names of the groups, smallest first; each but the first is named after its size in 3D."""


@dataclass(frozen=True, slots=True)
class SignedPermutation:
    """A permutation of the axes followed by flips of some of them.

    Parameters
    ----------
    axes
        Axis ``d`` of the result is axis ``axes[d]`` of the input.
    flips
        Whether axis ``d`` of the result is then reversed.
    """

    axes: tuple[int, ...]
    flips: tuple[bool, ...]

    def __post_init__(self) -> None:
        if sorted(self.axes) != list(range(len(self.flips))):
            raise ValueError(f"axes {self.axes} are no permutation of {len(self.flips)} axes")

    @classmethod
    def identity(cls, ndim: int) -> SignedPermutation:
        """Return the element that changes nothing."""
        return cls(tuple(range(ndim)), (False,) * ndim)

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.axes)

    @property
    def signs(self) -> tuple[int, ...]:
        """Sign of each component of a vector after its axis was flipped or not."""
        return tuple(-1 if flip else 1 for flip in self.flips)

    @property
    def inverse(self) -> SignedPermutation:
        """The element that undoes this one."""
        axes = tuple(self.axes.index(d) for d in range(self.ndim))
        return SignedPermutation(axes, tuple(self.flips[d] for d in axes))

    def __matmul__(self, first: SignedPermutation) -> SignedPermutation:
        """Compose: ``(p @ q).apply(a)`` equals ``p.apply(q.apply(a))``."""
        axes = tuple(first.axes[d] for d in self.axes)
        flips = tuple(f != first.flips[d] for d, f in zip(self.axes, self.flips, strict=True))
        return SignedPermutation(axes, flips)

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """Turn an array about its last `ndim` axes.

        Parameters
        ----------
        array
            Any dtype, shape ``(..., *spatial)``; the leading axes are unchanged.

        Returns
        -------
        A view of `array`.
        """
        leading = array.ndim - self.ndim
        turned = array.transpose(*range(leading), *(leading + d for d in self.axes))
        index: tuple[Any, ...] = (..., *(slice(None, None, sign) for sign in self.signs))
        view: NDArray[Any] = turned[index]
        return view

    def apply_magnitudes(self, field: NDArray[Any]) -> NDArray[Any]:
        """Turn a field with one unsigned value per axis, such as bandwidths.

        Parameters
        ----------
        field
            Shape ``(ndim, *spatial)``, components in the order of the axes (z, y, x).
        """
        return self.apply(field)[list(self.axes)]

    def apply_vectors(self, field: NDArray[Any]) -> NDArray[Any]:
        """Turn a field of vectors, such as offsets.

        Parameters
        ----------
        field
            Shape ``(ndim, *spatial)``, components in the order of the axes (z, y, x), signed dtype.
        """
        signs = np.array(self.signs, dtype=field.dtype)
        turned: NDArray[Any] = self.apply_magnitudes(field) * signs.reshape(-1, *(1,) * self.ndim)
        return turned


def group(mode: str | int, ndim: int) -> tuple[SignedPermutation, ...]:
    """List the elements of a group, in a fixed order that begins with the identity.

    Parameters
    ----------
    mode
        ``none`` (or 1), ``4`` rotations in the YX plane, ``8`` these and the Y flip, ``16`` these
        and the Z flip (3D), ``48`` all signed permutations (3D).
    ndim
        Number of spatial axes, 2 or 3.

    Raises
    ------
    ValueError
        If there is no such mode, or not for that many axes.
    """
    name = "none" if str(mode) == "1" else str(mode)
    if name not in MODES or (ndim == 2 and name in {"16", "48"}):
        known = MODES if ndim == 3 else MODES[:3]
        raise ValueError(f"no symmetry mode {mode!r} in {ndim}D; use one of {', '.join(known)}")
    identity = SignedPermutation.identity(ndim)
    if name == "none":
        return (identity,)
    if name == "48":
        signs = product((False, True), repeat=ndim)
        return tuple(SignedPermutation(a, f) for f in signs for a in permutations(range(ndim)))
    elements = _quarter_turns(ndim)
    if name in {"8", "16"}:
        elements = _with_flip(elements, axis=ndim - 2)
    return _with_flip(elements, axis=0) if name == "16" else elements


def _quarter_turns(ndim: int) -> tuple[SignedPermutation, ...]:
    """Return the four rotations in the plane of the last two axes."""
    axes, flips = list(range(ndim)), [False] * ndim
    axes[-2:], flips[-2] = [ndim - 1, ndim - 2], True
    quarter = SignedPermutation(tuple(axes), tuple(flips))
    turns = [SignedPermutation.identity(ndim)]
    for _ in range(3):
        turns.append(quarter @ turns[-1])
    return tuple(turns)


def _with_flip(elements: tuple[SignedPermutation, ...], axis: int) -> tuple[SignedPermutation, ...]:
    """Return the elements, then each of them followed by the flip of one axis."""
    ndim = elements[0].ndim
    flip = SignedPermutation(tuple(range(ndim)), tuple(d == axis for d in range(ndim)))
    return elements + tuple(flip @ element for element in elements)


def obstacle(
    mode: str | int, pitch: tuple[float, ...], voxel_size: tuple[float, ...] | None
) -> str | None:
    """Return why a model cannot use a mode; None if it can.

    Axes may be exchanged only if the model cannot distinguish them: their pitch and the voxel
    size that it was trained with are equal. Where the voxel size is not known, y and x count as
    equal (pixels of microscopes are square) and z does not (planes seldom lie that close).

    Parameters
    ----------
    mode
        As for `group`.
    pitch
        Pitch of each axis (z, y, x).
    voxel_size
        Voxel size of the training images (z, y, x) in micrometres, None where unknown.

    Raises
    ------
    ValueError
        If there is no such mode, or not for that many axes.
    """
    moved = {d for p in group(mode, len(pitch)) for d, source in enumerate(p.axes) if d != source}
    names = "zyx"[-len(pitch) :]
    for a, b in zip(sorted(moved), sorted(moved)[1:], strict=False):
        axes = f"{names[a]} and {names[b]}"
        if not isclose(pitch[a], pitch[b], rel_tol=1e-6):
            return f"it exchanges {axes}, whose pitch differs ({pitch[a]:.4g} and {pitch[b]:.4g})"
        if voxel_size is None:
            if names[a] == "z":
                return f"it exchanges {axes}, and the voxel size of the training is not known"
        elif not isclose(voxel_size[a], voxel_size[b], rel_tol=1e-3):
            sizes = f"{voxel_size[a]:.4g} and {voxel_size[b]:.4g} µm"
            return f"it exchanges {axes}, whose training voxel size differs ({sizes})"
    return None
