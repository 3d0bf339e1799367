"""All options of a comparison, by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from embedseg_large.errors import UsageError
from embedseg_large.options import Flag, Options
from embedseg_large.training.options import CropSizeOptions, DeviceOptions, FindOptions
from embedseg_large.training.recipe_options import RecipeOptions

ALL = "all"
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600}


@dataclass(frozen=True, kw_only=True)
class FairOptions(Options):
    """What is compared, and at what cost."""

    heading: ClassVar[str | None] = "Comparison"

    methods: Annotated[
        Sequence[str] | str,
        Flag(
            "Methods to compare, such as embedseg,flows,classical. Default: all that are "
            "installed.",
            form="text",
            metavar="A,B,...",
        ),
    ] = ALL
    """Names of methods, in a list or separated by commas; default: all that are installed."""
    budget: Annotated[
        float | str,
        Flag(
            "Time to train each method: 90s, 20m, 1h. Validation is not counted. Default: 20m.",
            form="text",
            metavar="TIME",
        ),
    ] = "20m"
    """Time to train each method, in seconds or as ``90s``, ``20m`` or ``1h``. The time of a step is
    measured first, and the number of steps follows from it. Validation is not counted."""
    steps: Annotated[
        int | None,
        Flag("Instead of --budget: the same number of steps for each method."),
    ] = None
    """Instead of a budget: the same number of optimiser steps for each method."""
    seeds: Annotated[
        int,
        Flag("Number of trainings per method, which differ only in the seed.", shows_default=True),
    ] = 1
    """Number of trainings of each method that differ only in the seed; default 1."""
    split_seed: Annotated[
        int,
        Flag("Seed that chooses the images to learn from and to score on.", shows_default=True),
    ] = 0
    """Seed that chooses the images of each part; default 0."""


@dataclass(frozen=True, kw_only=True)
class LearningOptions(DeviceOptions, CropSizeOptions):
    """How networks learn: the same for all methods."""

    heading: ClassVar[str | None] = "Learning (the same for all methods)"

    backbone: Annotated[str, Flag("Network: erfnet or unet.", shows_default=True)] = (
        RecipeOptions.backbone
    )
    """Network of all methods: erfnet or unet."""
    batch: Annotated[int, Flag("Crops per step.", shows_default=True)] = RecipeOptions.batch
    """Crops per step; default 2."""
    learning_rate: Annotated[float, Flag("Maximum learning rate.", shows_default=True)] = (
        RecipeOptions.learning_rate
    )
    """Maximum learning rate; default 0.0005."""
    threads: Annotated[int | None, Flag("Threads of torch on the CPU. Default: one per core.")] = (
        None
    )
    """Threads of torch on the CPU; default: one per core."""


@dataclass(frozen=True, kw_only=True)
class AnnotatedOptions(FindOptions):
    """The images and their annotations."""

    def chosen(self) -> dict[str, Any]:
        """Return what is not left at its default, as values that JSON can hold."""
        found = AnnotatedOptions(**FindOptions.among(vars(self))).given()
        if "nodata" in found:  # also NaN, which would equal no other
            found["nodata"] = str(found["nodata"])
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in found.items()
        }

    def pairing(self) -> dict[str, Any]:
        """Return arguments of `embedseg_large.training.data.sources.find_pairs`."""
        channel = None if self.channel == "all" else self.channel
        return FindOptions.among(vars(self)) | {"channel": channel}


@dataclass(frozen=True, kw_only=True)
class CompareOptions(AnnotatedOptions, LearningOptions, FairOptions):
    """Keyword options of `compare`.

    Raises
    ------
    UsageError
        A value is out of range.
    """

    overwrite: Annotated[bool, Flag("Start over: remove an earlier comparison of that name.")] = (
        False
    )
    """Whether an earlier comparison of that name is removed; default: it is resumed."""

    def __post_init__(self) -> None:
        seconds_of(self.budget)
        for name in ("steps", "seeds", "batch", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}; it must be at least 1")

    @property
    def seconds(self) -> float:
        """Time to train each method."""
        return seconds_of(self.budget)

    def deciding(self) -> dict[str, Any]:
        """Return what determines the scores of a method, as values that JSON can hold."""
        budget = self.seconds if self.steps is None else None
        cost = {"steps": self.steps, "budget": budget}
        names = ("backbone", "batch", "learning_rate", "split_seed")
        crop = None if self.crop is None else list(self.crop)
        same = {name: getattr(self, name) for name in names}
        return cost | same | {"crop": crop} | self.chosen()


def seconds_of(text: float | str) -> float:
    """Parse a time.

    Raises
    ------
    UsageError
        It is not a time, or not positive.
    """
    found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(s|m|min|h)?\s*", str(text))
    value = float(found[1]) * _UNITS[found[2] or "s"] if found else 0.0
    if value <= 0:
        raise UsageError(f"budget is {text!r}; pass a time such as 90s, 20m or 1h")
    return value
