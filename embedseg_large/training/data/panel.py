"""A panel: several sets of annotated images for validation, each scored separately.

The criterion is the mean over the sets, so a large one does not outweigh the others. How sets
are written: see `embedseg_large.training.data.sets`; ``object_diameter=30`` resamples one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from embedseg_large.errors import UsageError
from embedseg_large.network.model import Model
from embedseg_large.training.data.sets import ImageSet, read_sets
from embedseg_large.training.data.sources import Pair
from embedseg_large.training.options import StatedSets
from embedseg_large.training.validation import Example
from embedseg_large.volumes.intensity import intensity_ranges


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelSet(ImageSet):
    """One set of images of a panel."""

    role: ClassVar[str] = "panel set"

    object_diameter: float | None = None
    """Width of its objects in voxels, if images are to be resampled to the model's scale."""

    def __post_init__(self) -> None:
        ImageSet.__post_init__(self)
        self.require_positive("object_diameter")

    def examples(self, pairs: Sequence[Pair]) -> list[Example]:
        """Measure the intensities of the images."""
        return [
            Example.whole(
                pair, intensity_ranges(pair.image), set=self.name, diameter=self.object_diameter
            )
            for pair in pairs
        ]


def read_panel(stated: StatedSets) -> tuple[PanelSet, ...]:
    """Read the sets of a panel.

    Raises
    ------
    UsageError
        If there is no such file, a set has no such setting, or two sets have the same name.
    """
    return read_sets(stated, PanelSet)


def check_panel(panel: Sequence[PanelSet], model: Model | None) -> None:
    """Refuse a stated diameter for a model without a known diameter."""
    for each in panel:
        if each.object_diameter and model is not None and model.object_diameter is None:
            raise UsageError(
                f"panel set {each.name}: the model does not know the diameter of its training "
                "objects, so object_diameter has no meaning; leave it out"
            )
