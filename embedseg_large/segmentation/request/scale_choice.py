"""The scale that was chosen for an image automatically: values, words and table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from embedseg_large.geometry import Box

AUTO = "auto"
"""Passed instead of a diameter: find the scale automatically."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleTrial:
    """A scale that was tried, in voxels of the image."""

    diameter: float | None
    """Assumed width of the objects; None: y and x as they are, without resampling."""
    depth: float | None = None
    """Assumed depth of the objects; None: z is magnified as the width, or voxel sizes, say."""
    objects: int
    """Instances found in the sample."""
    found: float | None
    """Median diameter of a ball (3D) or disc (2D) of equal size; None if there are none."""
    views: float
    """Agreement of the two orientations, 0 to 1."""
    neighbours: float
    """Mean agreement with the adjacent scales, 0 to 1; a scale at an end has only one."""

    @property
    def score(self) -> float:
        """How consistent the scale is, 0 to 1."""
        return self.views * self.neighbours


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleChoice:
    """The scale that was chosen, and why."""

    diameter: float | None
    """Width of the objects; None: y and x as they are."""
    depth: float | None = None
    """Depth of the objects; None: z as the width says."""
    model_diameter: float
    trials: tuple[ScaleTrial, ...]
    places: tuple[Box, ...]
    """The sampled places, in voxels of the level."""
    timepoint: int | None = None

    @property
    def stated(self) -> float | str | None:
        """Value for `object_diameter` of `segment`; None: no resampling."""
        return stated_of(self.as_dict())

    @property
    def is_empty(self) -> bool:
        """Whether nothing consistent was found at any scale."""
        return all(t.score == 0 for t in self.trials)

    @property
    def sentence(self) -> str:
        """The choice, in words."""
        return described_scale(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """The choice as values that JSON can hold."""
        return {
            "asked": AUTO,
            "chosen": self.diameter,
            "depth": self.depth,
            "model_diameter": self.model_diameter,
            "nothing_found": self.is_empty,
            "places": [str(p) for p in self.places],
            "timepoint": self.timepoint,
            "trials": [asdict(t) | {"score": t.score} for t in self.trials],
        }


def stated_of(said: Mapping[str, Any]) -> float | str | None:
    """Return the value for `object_diameter` of `segment`, from `ScaleChoice.as_dict`."""
    depth = said.get("depth")
    if depth is None:
        chosen: float | None = said["chosen"]
        return chosen
    return f"{depth:g},{_width(said, said['chosen']):g}"


def described_scale(said: Mapping[str, Any]) -> str:
    """Describe the choice, from `ScaleChoice.as_dict`."""
    if said["nothing_found"]:
        return "nothing consistent was found at any scale; the image is taken as it is"
    if said.get("depth") is not None:
        width = _width(said, said["chosen"])
        return f"as if objects were {width:.3g} voxels wide and {said['depth']:.3g} deep"
    if said["chosen"] is None:
        return "the image as it is: no other scale is more consistent"
    return f"as if objects were {said['chosen']:.3g} voxels wide"


def table_of(said: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the scales that were tried, from `ScaleChoice.as_dict`."""
    heads = ["scale", "object diameter", "found", "median", "views", "neighbours", "score"]
    rows = []
    chosen = (said["chosen"], said.get("depth"))
    for trial in said["trials"]:
        is_chosen = (trial["diameter"], trial.get("depth")) == chosen
        rows.append(
            [
                "chosen" if is_chosen else "",
                _assumed(said, trial),
                f"{trial['objects']:,}",
                "" if trial["found"] is None else f"{trial['found']:.3g}",
                *(f"{trial[name]:.2f}" for name in ("views", "neighbours", "score")),
            ]
        )
    return heads, rows


def _assumed(said: Mapping[str, Any], trial: Mapping[str, Any]) -> str:
    """The size that a trial assumes, as it can be passed to `segment`."""
    width = f"{_width(said, trial['diameter']):.3g}"
    if trial.get("depth") is not None:
        return f"{trial['depth']:.3g},{width}"
    return width if trial["diameter"] is not None else f"{width} (as it is)"


def _width(said: Mapping[str, Any], diameter: float | None) -> float:
    """A width; that of the model's objects where y and x stay as they are."""
    return float(said["model_diameter"] if diameter is None else diameter)
