"""The meaning of a network's channels, and how symmetries of the voxel grid transform them.

A network predicts a few *fields*, each of one or more channels. Under a symmetry ``p`` all channels
move with the voxels; what happens to them besides depends on the kind of the field::

    scalar      nothing                          probabilities, logits
    vector      permuted and negated             offsets, flows
    magnitude   permuted                         bandwidths
    edges       to the edge that ``p`` makes     affinities of a voxel to the one at an offset
    rays        to the ray that ``p`` makes      distances along directions

An edge has no direction: where ``p`` turns an offset into the opposite of one that is listed, the
channel of that one is read at the other end. So test-time augmentation needs no special case per
method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.symmetry import SignedPermutation, group

Kind = Literal["scalar", "vector", "magnitude", "edges", "rays"]
Offset = tuple[int, ...]

MOST_HEADS, MOST_CHANNELS = 16, 1024
"""Bounds far above what any method has: without them, a few bytes of a model file could demand a
network that takes hours to build."""

UNANNOTATED = -1
"""Value of voxels, in masks and in targets of fields, of which nobody said what they are; losses
and scores leave them out."""


class Turn(NamedTuple):
    """The origin of one channel of a turned field, after all channels moved with the voxels."""

    source: int
    """The channel that it is taken from."""
    sign: int
    """Factor: 1, or -1 if it is negated."""
    shift: Offset | None = None
    """Voxel ``v`` takes the value of voxel ``v + shift``; None: its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A group of channels that turn together.

    Raises
    ------
    UsageError
        If the arguments do not fit the kind.
    """

    name: str
    """Name of the field in messages and model files."""

    kind: Kind
    """How it is transformed, see the top of this file."""

    count: int = 1
    """Channels of a scalar field."""

    axes: tuple[int, ...] = ()
    """For a vector or magnitude: the array axis of each channel."""

    directions: tuple[Offset, ...] = ()
    """For edges: offsets, in voxels. For rays: directions, as integers along each axis."""

    head: int = 0
    """The decoder of the network that predicts it; see `check_fields`."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UsageError(f"field {self.name!r} is of kind {self.kind!r}; there is no such kind")
        needs_axes, needs_directions = _needs(self.kind)
        if bool(self.axes) != needs_axes or bool(self.directions) != needs_directions:
            raise UsageError(f"field {self.name!r} of kind {self.kind} lacks axes or directions")
        if sorted(self.axes) != list(range(len(self.axes))) or self.count < 1:
            raise UsageError(f"field {self.name!r} has axes {self.axes} and {self.count} channels")
        if len(set(self.directions)) != len(self.directions) or not all(map(any, self.directions)):
            raise UsageError(f"field {self.name!r} has directions that are zero or stand twice")

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.axes) or len(self.directions) or self.count

    def turns(self, p: SignedPermutation) -> list[Turn]:
        """Return what each channel of the turned field is made of.

        Raises
        ------
        UsageError
            If the field has no channel for a transformed edge or ray.
        """
        if self.kind == "scalar":
            return [Turn(c, 1) for c in range(self.count)]
        if self.kind in ("vector", "magnitude"):
            signs = p.signs if self.kind == "vector" else (1,) * p.ndim
            return [Turn(self.axes.index(p.axes[d]), signs[d]) for d in self.axes]
        back = p.inverse
        return [self._turned_to(direction, back) for direction in self.directions]

    def _turned_to(self, direction: Offset, back: SignedPermutation) -> Turn:
        """Find the channel that is turned to a direction."""
        known = {each: number for number, each in enumerate(self.directions)}
        origin = turned_offset(direction, back)
        if origin in known:
            return Turn(known[origin], 1)
        opposite = tuple(-n for n in origin)
        if self.kind == "edges" and opposite in known:
            return Turn(known[opposite], 1, direction)
        raise UsageError(f"field {self.name!r} has no direction {origin}")

    def as_dict(self) -> dict[str, Any]:
        """Return the field as values that JSON can hold."""
        return {
            "name": self.name,
            "kind": self.kind,
            "count": self.count,
            "axes": list(self.axes),
            "directions": [list(each) for each in self.directions],
            "head": self.head,
        }


def _needs(kind: str) -> tuple[bool, bool]:
    """Whether a kind of field has axes, and whether it has directions."""
    return kind in ("vector", "magnitude"), kind in ("edges", "rays")


def turned_offset(offset: Offset, p: SignedPermutation) -> Offset:
    """Turn one integer vector (z, y, x)."""
    return tuple(sign * offset[axis] for sign, axis in zip(p.signs, p.axes, strict=True))


def channel_count(fields: Sequence[Field]) -> int:
    """Return the number of channels of several fields."""
    return sum(field.channels for field in fields)


def heads(fields: Sequence[Field]) -> tuple[int, ...]:
    """Return the number of channels of each decoder of fields that `check_fields` accepts."""
    return tuple(channel_count(list(each)) for _, each in groupby(fields, lambda f: f.head))


def check_fields(fields: Sequence[Field], ndim: int) -> None:
    """Refuse fields that no network of that many spatial axes predicts.

    Heads count from 0, each has at least one field, and their fields are in ascending order.

    Raises
    ------
    UsageError
        The message names the field, or the numbers.
    """
    for field in fields:
        for each in (field.axes, *field.directions):
            if len(each) not in (0, ndim):
                raise UsageError(f"field {field.name!r} has {len(each)} axes; the model has {ndim}")
    numbers = [field.head for field in fields]
    found = sorted(set(numbers))
    if numbers != sorted(numbers) or found != list(range(len(found))) or len(found) > MOST_HEADS:
        raise UsageError(
            f"fields are of heads {_shortened(numbers)}; heads count from 0 to at most "
            f"{MOST_HEADS - 1}, in ascending order and without gaps"
        )
    if channel_count(fields) > MOST_CHANNELS:
        raise UsageError(
            f"fields have {channel_count(fields)} channels; use at most {MOST_CHANNELS}"
        )


def _shortened(numbers: Sequence[int]) -> str:
    """List the first numbers."""
    most = 10
    return ", ".join(map(str, numbers[:most])) + (" ..." if len(numbers) > most else "")


def channel_turns(fields: Sequence[Field], p: SignedPermutation) -> list[Turn]:
    """Return what each channel of several fields, one after the other, is made of.

    Raises
    ------
    UsageError
        If a field has no channel for a transformed edge or ray.
    """
    found: list[Turn] = []
    for field in fields:
        first = len(found)
        found += [turn._replace(source=turn.source + first) for turn in field.turns(p)]
    return found


def turn_fields(
    channels: NDArray[Any], fields: Sequence[Field], p: SignedPermutation
) -> NDArray[Any]:
    """Turn the channels of several fields.

    Parameters
    ----------
    channels
        ``(channels, *spatial)``, signed dtype.
    fields
        What they mean, in their order.
    p
        The symmetry.

    Returns
    -------
    A copy. Edges that are read at their other end are 0 where that lies outside.
    """
    moved = p.apply(channels)
    turned = np.empty(moved.shape, moved.dtype)
    for number, turn in enumerate(channel_turns(fields, p)):
        whole = moved[turn.source]
        if turn.shift is None:
            turned[number] = turn.sign * whole
        else:
            turned[number] = 0
            near, far = shifted_slices(turn.shift, whole.shape)
            turned[number][near] = whole[far]
    return turned


def shifted_slices(
    shift: Sequence[int], shape: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return where voxels lie whose voxel at an offset is inside, and where those lie."""
    pairs = [(max(0, -s), max(0, min(n, n - s)), s) for s, n in zip(shift, shape, strict=True)]
    near = tuple(slice(a, max(a, b)) for a, b, _ in pairs)
    far = tuple(slice(a + s, max(a, b) + s) for a, b, s in pairs)
    return near, far


def direction_obstacle(mode: str | int, fields: Sequence[Field], ndim: int) -> str | None:
    """Return why fields cannot be transformed by all symmetries of a mode; None if they can.

    Parameters
    ----------
    mode
        As for `embedseg_large.symmetry.group`.
    fields
        What a network predicts.
    ndim
        Number of spatial axes.

    Raises
    ------
    ValueError
        If there is no such mode, or not for that many axes.
    """
    for p in group(mode, ndim):
        try:
            channel_turns(fields, p)
        except UsageError as error:
            return str(error)
    return None
