"""What a training uses and makes: options that say nothing of how weights are learnt."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from embedseg_large.options import Flag, Options
from embedseg_large.training.recipe_options import RecipeOptions

CenterMethod = Literal["medoid", "approximate-medoid", "centroid"]
"""How the centre of an object is chosen."""

StatedSets = Mapping[str, Any] | Sequence[Any] | str | os.PathLike[str] | None
"""Sets by name, the short forms of several, sets themselves, or a file; None: no set."""

DEFAULT_RECIPE = "paper"
"""The default recipe."""


@dataclass(frozen=True, kw_only=True)
class LabelsOption(Options):
    """Where the masks are, if not in files of their own."""

    heading: ClassVar[str | None] = "Data"

    labels: Annotated[
        str | None,
        Flag("Instead of --masks: name of the labels inside each OME-Zarr image."),
    ] = None
    """Instead of `masks`: name of the label group inside each OME-Zarr image."""


@dataclass(frozen=True, kw_only=True)
class PairingOptions(LabelsOption):
    """How images and masks are opened."""

    heading: ClassVar[str | None] = "Data"

    channel: Annotated[
        int | str | None,
        Flag(
            "Channel of the images, by number or name; or all.",
            form="text",
            metavar="C",
            shows_default=True,
        ),
    ] = 0
    """Channel of the images; None keeps all of several."""
    timepoint: Annotated[int | None, Flag("Timepoint of images and masks.")] = None
    """As for `open_volume`, for images and masks; a mask without a time axis has no timepoints."""
    level: Annotated[int, Flag("Pyramid level; 0 is the finest.", shows_default=True)] = 0
    """As for `open_volume`, for images and masks."""
    axes: Annotated[str | None, Flag("Letters of the axes, if the images have none: zyx.")] = None
    """Letters of the images' stored axes, where the files do not name them (a TIFF of three unnamed
    axes counts as z, y, x)."""
    voxel_size: Annotated[
        Sequence[float] | None,
        Flag(
            "Voxel size in µm, if missing or wrong in the images.", form="numbers", metavar="Z,Y,X"
        ),
    ] = None
    """Of the images, in µm along (z,) y, x; overrides their metadata."""
    nodata: Annotated[
        str | float | None,
        Flag(
            "Value of image voxels without data: nan, 65535, ...; none: all voxels hold data.",
            form="text",
            metavar="VALUE",
        ),
    ] = None
    """Value of image voxels without data, as for `open_volume`."""
    allow_missing: Annotated[
        bool, Flag("Read missing files, and missing planes of a TIFF, as zeros.")
    ] = False
    """Whether zeros may stand for files and planes of a TIFF that are not there, in images and
    masks."""
    ignore: Annotated[
        int,
        Flag(
            "Mask value of unannotated voxels; negative values are always unannotated.",
            name="--ignore-label",
            shows_default=True,
        ),
    ] = -1
    """Value of unannotated mask voxels; negative values are always unannotated."""


@dataclass(frozen=True, kw_only=True)
class FindOptions(PairingOptions):
    """What `find_pairs` takes by name."""

    ndim: Annotated[int | None, Flag("2 or 3: refuse images with another number of axes.")] = None
    """Expected number of spatial axes, 2 or 3; None: any."""


@dataclass(frozen=True, kw_only=True)
class StartOptions(Options):
    """What a training begins with."""

    recipe: Annotated[
        str,
        Flag(
            "Set of defaults: paper, or robust for images with other microscopes and object sizes "
            "than the training data.",
            shows_default=True,
        ),
    ] = DEFAULT_RECIPE
    """Set of defaults: ``paper`` (Lalit et al. 2021) or ``robust``, for models that should work on
    images unlike the training data; see `embedseg_large.training.settings.RECIPES`."""
    resume: Annotated[bool, Flag("Resume the interrupted training of --out.")] = False
    """Resume the interrupted training of `out`."""


@dataclass(frozen=True, kw_only=True)
class SetOptions(Options):
    """Annotated images, besides those of the first set."""

    heading: ClassVar[str | None] = "Data"

    also: Annotated[
        StatedSets,
        Flag(
            "A further set of annotated images with its own share of the crops; repeat for "
            "several: NAME=IMAGES,MASKS or NAME=IMAGES,labels=NAME, then share=, channel=, "
            "level=, axes=, most=; or a YAML file. Default share: equal parts.",
            form="texts",
            metavar="NAME=IMAGES,MASKS[,...]",
        ),
    ] = None
    """Further sets of annotated images, each with its own share of the crops, so that a large set
    does not crowd out a small one; see `embedseg_large.training.data.sets`."""
    reviewed: Annotated[
        Any,
        Flag(
            "Train on what was reviewed of labels (`review`, napari): STORE/labels/NAME, or a "
            "store with one review; repeat for several. What no one looked at is ignored.",
            form="texts",
            metavar="STORE",
        ),
    ] = None
    """Reviews, alone or in addition to `images`: paths as for `open_review`, or reviews. Instances
    that were decided about and a rim around them are annotated; the rest is ignored."""
    ndim: Annotated[int | None, Flag("2 or 3: refuse images with another number of axes.")] = None
    """2 or 3, to check the images; for synthetic volumes alone, default 3."""
    pairing: Mapping[str, Any] | None = None
    """Additional arguments of `find_pairs`: labels, channel, ignore, axes, voxel_size ..."""


@dataclass(frozen=True, kw_only=True)
class SyntheticOptions(Options):
    """Volumes that need no annotation."""

    heading: ClassVar[str | None] = "Synthetic volumes"

    synthetic: Annotated[
        int | None,
        Flag(
            "Train on this many synthetic volumes of nuclei, alone or together with --images.",
            metavar="N",
        ),
    ] = None
    """Number of distinct synthetic volumes to train on, generated from the seed on demand."""
    synthetic_settings: Annotated[
        Any,
        Flag(
            "Their properties: diameter=12:30,anisotropy=2 (voxels), or a YAML or JSON file.",
            form="text",
            metavar="FILE|WORDS",
        ),
    ] = None
    """Their properties; see `embedseg_large.synthesis.read_settings`."""
    synthetic_share: Annotated[
        float | None,
        Flag("Fraction of the crops taken from them, with --images. Default: 0.5."),
    ] = None
    """Fraction of the crops taken from them, with annotated images; default: half."""


@dataclass(frozen=True, kw_only=True)
class ValidationOptions(Options):
    """How the model is validated."""

    heading: ClassVar[str | None] = "Validation"

    validation: Annotated[
        float | None,
        Flag(
            "Fraction of the images held out for validation; 0: none. Default: 0.15, "
            "or 0 with --panel."
        ),
    ] = None
    """Fraction of the images of each set to validate on, drawn by the seed; 0: none. Where that
    leaves no image, synthetic volumes that are not trained on. Default: 0.15, with a panel 0."""
    validation_images: Annotated[
        Any, Flag("Folder of other images to validate on.", form="text")
    ] = None
    """Other images to validate on."""
    validation_masks: Annotated[Any, Flag("Folder of their masks.", form="text")] = None
    """Their masks."""
    panel: Annotated[
        StatedSets,
        Flag(
            "A set to validate on, scored separately; repeatable: "
            "NAME=IMAGES,MASKS or NAME=IMAGES,labels=NAME, then object_diameter=, channel=, "
            "level=, axes=, most=; or a YAML file. The best mean over the sets is kept.",
            form="texts",
            metavar="NAME=IMAGES,MASKS[,...]",
        ),
    ] = None
    """Additional sets of images to validate on, each scored separately; the model with the best
    mean over all sets is kept. See `embedseg_large.training.data.panel`."""
    tune_thresholds: Annotated[
        bool,
        Flag("At the end, choose the model's seed and margin on the validation images."),
    ] = False
    """Whether seed and margin of the best model are chosen at the end on the validation images, for
    one pass and for its default test-time augmentation."""


@dataclass(frozen=True, kw_only=True)
class CropSizeOptions(Options):
    """Size of crops."""

    heading: ClassVar[str | None] = "Crops"

    crop: Annotated[
        Sequence[int] | None,
        Flag(
            "Voxels of a crop, multiples of 8. Default: from the sizes of the objects.",
            form="sizes",
        ),
    ] = None
    """Shape of a crop; default: from the objects."""


@dataclass(frozen=True, kw_only=True)
class CropOptions(CropSizeOptions):
    """Size and centre of crops."""

    center: Annotated[
        CenterMethod,
        Flag(
            "Where an object's voxels point: medoid, approximate-medoid, centroid.",
            form="text",
            shows_default=True,
        ),
    ] = "medoid"
    """medoid, approximate-medoid or centroid."""


@dataclass(frozen=True, kw_only=True)
class CurveOptions(Options):
    """Curves of the training."""

    heading: ClassVar[str | None] = "Watching"

    tensorboard: Annotated[
        str | os.PathLike[str] | None,
        Flag("Folder for TensorBoard logs.", form="text", metavar="DIR"),
    ] = None
    """Folder for TensorBoard logs."""


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(Options):
    """What computes."""

    heading: ClassVar[str | None] = "Work"

    device: Annotated[str | None, Flag("cpu or cuda. Default: cuda if available.")] = None
    """``cpu`` or ``cuda``; None: cuda if available."""


@dataclass(frozen=True, kw_only=True)
class TaskOptions(
    DeviceOptions,
    CurveOptions,
    CropOptions,
    ValidationOptions,
    SyntheticOptions,
    SetOptions,
    StartOptions,
):
    """What a training uses and makes."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions(RecipeOptions, TaskOptions):
    """What `train` takes by name. Where a recipe differs from the paper, its settings are used."""
