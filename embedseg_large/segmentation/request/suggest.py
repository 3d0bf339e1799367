"""The scale of an image that suits a model best, found in a few seconds on a part of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from embedseg_large.options import takes
from embedseg_large.segmentation.input_options import InputOptions, SuggestOptions
from embedseg_large.segmentation.request.auto_scale import choose_scale
from embedseg_large.segmentation.request.prepare import (
    better_level,
    check_fit,
    load_network,
    needs_2d,
    open_image,
)
from embedseg_large.segmentation.request.region import region_of
from embedseg_large.segmentation.request.scale_choice import ScaleChoice
from embedseg_large.segmentation.segmenters.protocol import Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """The scale that suits a model best on a sample of an image."""

    choice: ScaleChoice
    level: int
    """Sampled pyramid level, whose voxels are the unit of diameters."""
    states_level: bool = False
    """Whether `segment` would choose another level unless this one is stated."""

    @property
    def diameter(self) -> float | str | None:
        """Value for `object_diameter` of `segment`; None: no resampling is best."""
        return self.choice.stated

    def as_dict(self) -> dict[str, Any]:
        """The suggestion as values that JSON can hold."""
        return {
            "object_diameter": self.diameter,
            "level": self.level,
            "scale": self.choice.as_dict(),
        }


@takes(SuggestOptions)
def suggest_diameter(
    volume: Any, model: Network | str | os.PathLike[str] | None = None, **options: Any
) -> Suggestion:
    """Compare scales on a sample of an image, for `object_diameter` of `segment`.

    Parameters
    ----------
    volume, model
        See `segment`.
    **options

    Raises
    ------
    VolumeError
        If the image cannot be used.
    UsageError
        If an option cannot be used, or the model does not know the diameter of its objects.
    ModelError
        If the model cannot be used, or does not fit the image.
    """
    asked = SuggestOptions.of(options, "suggest_diameter")
    opened = open_image(volume, InputOptions(**InputOptions.among(vars(asked) | {"region": None})))
    if needs_2d(model, opened):
        opened = opened.flattened()
    network = load_network(model, opened.ndim)
    check_fit(opened, network)
    choice = choose_scale(
        opened,
        network,
        within=region_of(asked.region, opened.spatial_shape),
        timepoints=opened.timepoints,
    )
    said = (asked.level, choice.stated, asked.voxel_size)
    states_level = better_level(volume, opened, network, said) is not None
    return Suggestion(choice=choice, level=opened.level, states_level=states_level)
