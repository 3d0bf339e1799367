"""The options of ``embedseg-large train``, by topic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import typer

from embedseg_large.cli.options import numbers, sizes


@dataclass(frozen=True, kw_only=True)
class Data:
    """The images and their annotations."""

    panel: ClassVar[str | None] = "Data"

    labels: Annotated[
        str | None,
        typer.Option(help="Instead of --masks: name of the labels inside each OME-Zarr image."),
    ] = None
    also: Annotated[
        list[str] | None,
        typer.Option(
            help="A further set of annotated images with its own share of the crops; repeat for "
            "several: NAME=IMAGES,MASKS or NAME=IMAGES,labels=NAME, then share=, channel=, "
            "level=, axes=, most=; or a YAML file. Default share: equal parts.",
            metavar="NAME=IMAGES,MASKS[,...]",
        ),
    ] = None
    ndim: Annotated[
        int | None, typer.Option(help="2 or 3: refuse images with another number of axes.")
    ] = None
    channel: Annotated[
        str, typer.Option(help="Channel of the images, by number or name; or all.", metavar="C")
    ] = "0"
    timepoint: Annotated[int | None, typer.Option(help="Timepoint of images and masks.")] = None
    level: Annotated[int, typer.Option(help="Pyramid level; 0 is the finest.")] = 0
    axes: Annotated[
        str | None, typer.Option(help="Letters of the axes, if the images have none: zyx.")
    ] = None
    voxel_size: Annotated[
        Any,
        typer.Option(
            help="Voxel size in µm, if missing or wrong in the images.",
            parser=numbers,
            metavar="Z,Y,X",
        ),
    ] = None
    nodata: Annotated[
        str | None,
        typer.Option(
            help="Value of image voxels without data: nan, 65535, ...; none: all voxels hold data.",
            metavar="VALUE",
        ),
    ] = None
    ignore_label: Annotated[
        int,
        typer.Option(
            help="Mask value of unannotated voxels; negative values are always unannotated."
        ),
    ] = -1

    def pairing(self) -> dict[str, Any]:
        """Options for opening an image and its mask, for `embedseg_large.train`."""
        return {
            "labels": self.labels,
            "channel": None if self.channel == "all" else self.channel,
            "timepoint": self.timepoint,
            "level": self.level,
            "axes": self.axes,
            "voxel_size": self.voxel_size,
            "nodata": self.nodata,
            "ignore": self.ignore_label,
        }


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """Volumes that need no annotation."""

    panel: ClassVar[str | None] = "Synthetic volumes"

    synthetic: Annotated[
        int | None,
        typer.Option(
            help="Train on this many synthetic volumes of nuclei, alone or together with --images.",
            metavar="N",
        ),
    ] = None
    synthetic_settings: Annotated[
        str | None,
        typer.Option(
            help="Their properties: diameter=12:30,anisotropy=2 (voxels), or a YAML or JSON file.",
            metavar="FILE|WORDS",
        ),
    ] = None
    synthetic_share: Annotated[
        float | None,
        typer.Option(help="Fraction of the crops taken from them, with --images. Default: 0.5."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Validation:
    """How the model is validated."""

    panel: ClassVar[str | None] = "Validation"

    validation: Annotated[
        float | None,
        typer.Option(
            help="Fraction of the images held out for validation; 0: none. Default: 0.15, "
            "or 0 with --panel."
        ),
    ] = None
    validation_images: Annotated[
        str | None, typer.Option(help="Folder of other images to validate on.")
    ] = None
    validation_masks: Annotated[str | None, typer.Option(help="Folder of their masks.")] = None
    panel_sets: Annotated[
        list[str] | None,
        typer.Option(
            "--panel",
            help="A set to validate on, scored separately; repeatable: "
            "NAME=IMAGES,MASKS or NAME=IMAGES,labels=NAME, then object_diameter=, channel=, "
            "level=, axes=, most=; or a YAML file. The best mean over the sets is kept.",
            metavar="NAME=IMAGES,MASKS[,...]",
        ),
    ] = None
    tune_thresholds: Annotated[
        bool,
        typer.Option(
            "--tune-thresholds",
            help="At the end, choose the model's seed and margin on the validation images.",
        ),
    ] = False
    validate_every: Annotated[
        int, typer.Option(help="Number of epochs between validations.", min=1)
    ] = 1
    patience: Annotated[
        int | None,
        typer.Option(
            help="Stop after this many validations without a better model. Default: never.", min=1
        ),
    ] = None

    def arguments(self) -> dict[str, Any]:
        """The options, for `embedseg_large.train`."""
        values = dict(vars(self))
        return values | {"panel": values.pop("panel_sets")}


class Given:
    """Options that override the recipe if given."""

    def given(self) -> dict[str, Any]:
        """Those that are not None."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Length(Given):
    """Length of the training, and the learning rate."""

    panel: ClassVar[str | None] = "Length and learning rate"

    epochs: Annotated[
        int | None,
        typer.Option(help="Passes over the annotated objects. Default: 200 (paper).", min=1),
    ] = None
    epoch_crops: Annotated[
        int | None,
        typer.Option(
            help="Objects per epoch, sampled anew each time; objects in images with few of "
            "them are sampled more often. "
            "Default: all.",
            min=1,
        ),
    ] = None
    steps: Annotated[
        int | None,
        typer.Option(
            help="Instead of --epochs: number of optimiser steps. Default: 10000 (robust).", min=1
        ),
    ] = None
    epoch_steps: Annotated[
        int | None,
        typer.Option(
            help="With --steps: steps between log lines, saved states and validations. "
            "Default: 500.",
            min=1,
        ),
    ] = None
    batch: Annotated[
        int | None, typer.Option(help="Crops per batch; memory grows with it. Default: 2.", min=1)
    ] = None
    accumulate: Annotated[
        int | None,
        typer.Option(help="Batches per optimiser step. Default: 8 (paper), 1 (robust).", min=1),
    ] = None
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Maximum learning rate; for fine-tuning try 0.0001. Default: 0.0005."),
    ] = None
    schedule: Annotated[
        str | None,
        typer.Option(
            help="How the learning rate falls to 0: polynomial (paper) or cosine (robust)."
        ),
    ] = None
    warmup: Annotated[
        int | None,
        typer.Option(
            help="Steps over which the rate grows at the start. Default: 0 (paper), 300 (robust).",
            min=0,
        ),
    ] = None
    late_share: Annotated[
        float | None,
        typer.Option(
            help="Last part of the training, in which the next three options apply. Default: 0 "
            "(paper), 0.2 (robust)."
        ),
    ] = None
    late_crop: Annotated[
        Any,
        typer.Option(
            help="Voxels of a crop in that part. Default: unchanged.", parser=sizes, metavar="Z,Y,X"
        ),
    ] = None
    late_ranges: Annotated[
        float | None,
        typer.Option(help="Factor on the ranges of augmentation in that part. Default: 0.5."),
    ] = None
    late_synthetic_share: Annotated[
        float | None, typer.Option(help="--synthetic-share in that part. Default: unchanged.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Optimising(Given):
    """How weights are learned from crops."""

    panel: ClassVar[str | None] = "Learning"

    average_steps: Annotated[
        int | None,
        typer.Option(
            help="Validate and keep the mean of the weights over this many steps; 0: the "
            "current weights. "
            "Default: 0 (paper), 1000 (robust).",
            min=0,
        ),
    ] = None
    clip: Annotated[
        float | None,
        typer.Option(help="Maximum norm of the gradient. Default: unlimited (paper), 5 (robust)."),
    ] = None
    weight_decay: Annotated[
        float | None, typer.Option(help="Weight decay of the optimiser. Default: 0.0001.")
    ] = None
    freeze_encoder: Annotated[
        bool,
        typer.Option(
            "--freeze-encoder",
            help="With --from: train only the decoders; for very few objects.",
        ),
    ] = False
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.", min=0)] = 0


@dataclass(frozen=True, kw_only=True)
class Cropping:
    """Size and centre of crops."""

    panel: ClassVar[str | None] = "Crops"

    crop: Annotated[
        Any,
        typer.Option(
            help="Voxels of a crop, multiples of 8. Default: from the sizes of the objects.",
            parser=sizes,
            metavar="Z,Y,X",
        ),
    ] = None
    center: Annotated[
        str,
        typer.Option(help="Where an object's voxels point: medoid, approximate-medoid, centroid."),
    ] = "medoid"


@dataclass(frozen=True, kw_only=True)
class Drawing(Given):
    """How often which crops are sampled."""

    panel: ClassVar[str | None] = "Crops"

    empty_share: Annotated[
        float | None,
        typer.Option(
            help="Fraction of the crops with no object, or hardly any. Default: 0 (paper), "
            "0.05 (robust)."
        ),
    ] = None
    hard_share: Annotated[
        float | None,
        typer.Option(
            help="Fraction of the crops from the images with the largest current error. Default: 0."
        ),
    ] = None
    small_objects: Annotated[
        float | None,
        typer.Option(
            help="Factor by which objects below half the median size are sampled more "
            "often. Default: 1."
        ),
    ] = None
    synthetic_ranges: Annotated[
        float | None,
        typer.Option(
            help="Factor on the ranges of augmentation for synthetic volumes, which already "
            "vary. Default: 1 (paper), 0.3 (robust)."
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Watching:
    """Pictures and curves of the training."""

    panel: ClassVar[str | None] = "Watching"

    pictures_every: Annotated[
        int, typer.Option(help="Epochs between sheets of pictures; 0: none.", min=0)
    ] = 5
    tensorboard: Annotated[
        str | None, typer.Option(help="Folder for TensorBoard logs.", metavar="DIR")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Work:
    """Hardware and processes."""

    panel: ClassVar[str | None] = "Work"

    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: cuda if available.")] = (
        None
    )
    dtype: Annotated[
        str,
        typer.Option(
            help="Number format of convolutions: float32, bfloat16, float16; auto: bfloat16 "
            "if the processor supports it."
        ),
    ] = "auto"
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads of torch on the CPU. Default: one per core; use fewer next to "
            "other work.",
            min=1,
        ),
    ] = None
    workers: Annotated[
        int, typer.Option(help="Processes that prepare crops during training.", min=0)
    ] = 0
