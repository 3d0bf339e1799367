"""All methods by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from embedseg_large.errors import UsageError
from embedseg_large.methods.affinities import Affinities, mutex_watershed
from embedseg_large.methods.embedseg import EmbedSeg
from embedseg_large.methods.flows import Flows
from embedseg_large.methods.harmonic import Harmonic
from embedseg_large.methods.protocol import FieldMethod, Method, ObjectScale
from embedseg_large.methods.stardist import StarDist
from embedseg_large.methods.three_class import ThreeClass
from embedseg_large.methods.two_class import TwoClass
from embedseg_large.network.settings import WITHOUT_NETWORK

Make: TypeAlias = Callable[[ObjectScale], FieldMethod]

FIELD_METHODS: dict[str, Make] = {
    "three-class": ThreeClass,
    "two-class": TwoClass,
    "flows": Flows,
    "affinities": Affinities,
    "stardist": StarDist,
    "harmonic": Harmonic,
}
"""Methods that learn their fields voxel by voxel."""

NAMES = ("embedseg", *FIELD_METHODS)
"""All methods, the default first."""


def field_method(name: str, scale: ObjectScale) -> FieldMethod:
    """Return a method other than EmbedSeg, for objects of the given scale.

    Raises
    ------
    UsageError
        If there is no such method.
    """
    if name not in FIELD_METHODS:
        raise UsageError(f"method is {name!r}; use {', '.join(NAMES[:-1])} or {NAMES[-1]}")
    return FIELD_METHODS[name](scale)


def check_usable(name: str) -> None:
    """Refuse a method that does not exist, or that requires a missing package.

    Raises
    ------
    UsageError
        The message includes the command that installs it.
    """
    if name == WITHOUT_NETWORK:
        from embedseg_large.network.forest import check_forest  # imports torch

        check_forest()
    elif name not in NAMES:
        raise UsageError(f"method is {name!r}; use {', '.join(NAMES)} or {WITHOUT_NETWORK}")
    if name == "affinities":
        mutex_watershed()


__all__ = ["FIELD_METHODS", "NAMES", "EmbedSeg", "Method", "check_usable", "field_method"]
