"""Everything a user may choose about a run, by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, TypedDict


class SettingsOptions(TypedDict, total=False):
    """What decides the labels; what is left out follows from the model."""

    tta: bool | int | str
    """Test-time augmentation: none, 4, 8, 16, 48, or True for the model's default."""
    dtype: str | None
    """Number format of the network: float32, bfloat16 or float16; default: float16 on a GPU, else
    float32."""
    tile: Sequence[int] | None
    """Core of a prediction tile, in voxels; multiples of 8."""
    context: Sequence[int] | None
    """Image context around a prediction core that the network sees, in voxels; multiples of 8."""
    cluster_tile: Sequence[int] | None
    """Core of a clustering tile, in voxels."""
    halo: Sequence[int] | None
    """Initial halo around a clustering core, in voxels."""
    max_halo: Sequence[int] | None
    """Maximum halo for tiles that disagree with a neighbour; default 4 times the halo."""
    strict: bool
    """Whether to enlarge the halo of tiles that are merely uncertain, too."""
    min_object_size: int | None
    """Instances have more voxels of the volume than this."""
    foreground: float
    """Seediness above which a voxel is foreground; default 0.5."""
    seed: float | None
    """Minimum seediness for a voxel to seed an instance; default: the model's for that
    augmentation."""
    margin: float | None
    """A voxel belongs to an instance when the seed's Gaussian is above this at its embedding,
    between 0 and 1: lower makes objects larger; default: the model's for that augmentation."""
    keep_largest_piece: bool | None
    """Whether only the largest connected piece of each instance is kept; default: the model's
    setting, usually no. Decided on the whole instance, on the grid that was clustered."""
    fill_holes: bool | None
    """Whether background enclosed by one instance becomes part of it; default: the model's setting,
    usually no. Cavities open at the border of the volume are not filled."""


class SegmentOptions(SettingsOptions, total=False):
    """What `segment` takes by name."""

    threshold: float | None
    """For the classical method: intensity above which a voxel is foreground; default: Otsu's of the
    whole volume."""
    channel: int | str | None
    """Channel of a multi-channel image, by number or name; default 0. None: all, for a model of
    several."""
    timepoint: int | Sequence[int] | None
    """One timepoint of a series, or several; default: all. Each has separate labels, from 1."""
    level: int | None
    """Pyramid level; 0 is the finest. Default: that whose voxels are nearest in size to the model's
    where both sizes are known and no diameter is given, else 0."""
    region: Sequence[slice | Sequence[int | None]] | None
    """Part of the volume, for a preview: a slice or a pair for each of (z,) y, x, in voxels of that
    level. It gets the labels that the whole would get there, up to their numbers; the rest is 0."""
    axes: str | None
    """Letters of the axes of a file that does not name them."""
    voxel_size: Sequence[float] | None
    """Voxel size in µm along (z,) y, x, if the file has none."""
    nodata: str | float | None
    """Value of voxels that hold no data, such as NaN, or ``none``; default: ``auto``, see
    `embedseg_large.volumes.nodata`. There is level 0 for the network, and no instance."""
    series: int | None
    """Index of the image in a TIFF; default: the largest."""
    allow_missing: bool
    """Whether zeros may stand for files and planes of a TIFF that are not there; default: no."""
    object_diameter: float | str | None
    """Diameter of the objects along y and x: voxels, ``12um``, or ``voxel-size`` where image and
    model know theirs; ``auto`` keeps the scale at which the model is most consistent with itself on
    a sample of the volume. The image is resampled to the model's scale, labels come back at its
    own."""
    mask: Any
    """Labels or a mask of the same space, at any pyramid level: a path or an array. Instances are
    searched where it is not 0; all else counts as no data."""
    dark_below: float | None
    """Tiles without a voxel brighter than this in a coarse level are not predicted."""
    output: str | os.PathLike[str] | None
    """Store for the labels, if they cannot go into the image's store."""
    ngff_version: str | None
    """0.5 or 0.4, for a new `output`."""
    overwrite: bool
    """Whether labels of that name may be replaced."""
    scratch: str | os.PathLike[str] | None
    """Folder for the files of an unfinished run, from which it resumes; default: beside the labels'
    store. All workers must see it."""
    intensity_range: tuple[float, float] | None
    """Intensities that become 0 and 1; default: percentiles 1 and 99.8 of the whole volume."""
    intensity_sample: float | None
    """Fraction of the volume to take the percentiles from; default: all of it."""
    intensity_per_timepoint: bool
    """Whether percentiles are computed per timepoint; default: over all together."""
    intensity_field: str
    """How uneven light is evened out before that range is applied: ``none``; ``depth``, by a smooth
    gain along z; or ``smooth``, along all axes. It is measured on the whole volume, and bounded."""
    device: str | None
    """cpu or cuda; default: cuda if available, else cpu."""
    keep_predictions: bool
    """Whether the predictions stay, for `from_predictions`: in ``STORE-LABELS.predictions`` beside
    the store, or in `scratch`."""
    from_predictions: str | os.PathLike[str] | None
    """Folder of kept predictions: they are clustered without running the network. Image, model and
    network settings must be the same; thresholds may differ."""
