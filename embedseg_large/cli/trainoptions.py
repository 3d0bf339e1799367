"""The options of ``embedseg-large train``, by what they are about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import typer

from embedseg_large.cli.options import numbers, sizes


@dataclass(frozen=True, kw_only=True)
class Data:
    """What the images are, and what in them is annotated."""

    panel: ClassVar[str | None] = "Data"

    labels: Annotated[
        str | None,
        typer.Option(help="Instead of --masks: name of the labels inside each OME-Zarr image."),
    ] = None
    ndim: Annotated[
        int | None, typer.Option(help="2 or 3: refuse images of another number of axes.")
    ] = None
    channel: Annotated[
        str, typer.Option(help="Channel of the images, a number or name; or all.", metavar="C")
    ] = "0"
    timepoint: Annotated[int | None, typer.Option(help="Timepoint of images and masks.")] = None
    level: Annotated[int, typer.Option(help="Pyramid level, 0 is the finest.")] = 0
    axes: Annotated[
        str | None, typer.Option(help="Letters of the axes, where the images have none: zyx.")
    ] = None
    voxel_size: Annotated[
        Any,
        typer.Option(
            help="Micrometres, where the images do not say it or are wrong.",
            parser=numbers,
            metavar="Z,Y,X",
        ),
    ] = None
    nodata: Annotated[
        str | None,
        typer.Option(
            help="Value of image voxels without data: nan, 65535, ...; none: all hold data.",
            metavar="VALUE",
        ),
    ] = None
    ignore_label: Annotated[
        int, typer.Option(help="Mask value of what is not annotated; negative ones never are.")
    ] = -1

    def pairing(self) -> dict[str, Any]:
        """How an image and its mask are opened, as `embedseg_large.train` takes it."""
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
    """Volumes that nobody has to annotate."""

    panel: ClassVar[str | None] = "Synthetic volumes"

    synthetic: Annotated[
        int | None,
        typer.Option(
            help="Train on so many synthetic volumes of nuclei: alone, or beside --images.",
            metavar="N",
        ),
    ] = None
    synthetic_settings: Annotated[
        str | None,
        typer.Option(
            help="What they are like: diameter=12:30,anisotropy=2 (voxels), or a YAML or JSON "
            "file.",
            metavar="FILE|WORDS",
        ),
    ] = None
    synthetic_share: Annotated[
        float | None,
        typer.Option(help="Fraction of the crops from them, beside --images. Default: 0.5."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What the training is judged by."""

    panel: ClassVar[str | None] = "Validation"

    validation: Annotated[
        float | None,
        typer.Option(
            help="Fraction of the images to keep aside; 0: none. Default: 0.15, with --panel 0."
        ),
    ] = None
    validation_images: Annotated[
        str | None, typer.Option(help="Folder of images to validate on instead.")
    ] = None
    validation_masks: Annotated[str | None, typer.Option(help="And of their masks.")] = None
    panel_sets: Annotated[
        list[str] | None,
        typer.Option(
            "--panel",
            help="A set to validate on, scored by itself; repeat for several: "
            "NAME=IMAGES,MASKS or NAME=IMAGES,labels=NAME, then object_diameter=, channel=, "
            "level=, axes=, most=; or a YAML file. The best mean over the sets is kept.",
            metavar="NAME=IMAGES,MASKS[,...]",
        ),
    ] = None
    tune_thresholds: Annotated[
        bool,
        typer.Option(
            "--tune-thresholds",
            help="At the end, find the model's seed and margin on the validation images.",
        ),
    ] = False
    validate_every: Annotated[int, typer.Option(help="Epochs between two validations.", min=1)] = 1
    patience: Annotated[
        int | None,
        typer.Option(
            help="Stop after so many validations without a better model. Default: never.", min=1
        ),
    ] = None

    def arguments(self) -> dict[str, Any]:
        """The options as `embedseg_large.train` takes them."""
        values = dict(vars(self))
        return values | {"panel": values.pop("panel_sets")}


class Given:
    """Options of which only those that are given count: a recipe has the others."""

    def given(self) -> dict[str, Any]:
        """Those that are not None."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Length(Given):
    """How long it is trained, and at which rate."""

    panel: ClassVar[str | None] = "Length and learning rate"

    epochs: Annotated[
        int | None,
        typer.Option(help="Passes over the annotated objects. Default: 200 (paper).", min=1),
    ] = None
    epoch_crops: Annotated[
        int | None,
        typer.Option(
            help="Objects of a pass, drawn anew for each, from images with few objects more often. "
            "Default: all.",
            min=1,
        ),
    ] = None
    steps: Annotated[
        int | None,
        typer.Option(
            help="Instead of --epochs: steps of the optimiser. Default: 10000 (robust).", min=1
        ),
    ] = None
    epoch_steps: Annotated[
        int | None,
        typer.Option(
            help="With --steps: steps between two lines of the log, states and validations. "
            "Default: 500.",
            min=1,
        ),
    ] = None
    batch: Annotated[
        int | None, typer.Option(help="Crops at a time; memory grows with it. Default: 2.", min=1)
    ] = None
    accumulate: Annotated[
        int | None,
        typer.Option(help="Batches that make a step. Default: 8 (paper), 1 (robust).", min=1),
    ] = None
    learning_rate: Annotated[
        float | None,
        typer.Option(help="The largest; for fine-tuning try 0.0001. Default: 0.0005."),
    ] = None
    schedule: Annotated[
        str | None,
        typer.Option(help="How the rate falls to 0: polynomial (paper) or cosine (robust)."),
    ] = None
    warmup: Annotated[
        int | None,
        typer.Option(
            help="Steps over which the rate grows at first. Default: 0 (paper), 300 (robust).",
            min=0,
        ),
    ] = None
    late_share: Annotated[
        float | None,
        typer.Option(
            help="Last part of the training, in which the next three options hold. Default: 0 "
            "(paper), 0.2 (robust)."
        ),
    ] = None
    late_crop: Annotated[
        Any,
        typer.Option(
            help="Voxels of a crop then. Default: as before.", parser=sizes, metavar="Z,Y,X"
        ),
    ] = None
    late_ranges: Annotated[
        float | None,
        typer.Option(help="Part of the ranges of augmentation that is left then. Default: 0.5."),
    ] = None
    late_synthetic_share: Annotated[
        float | None, typer.Option(help="--synthetic-share then. Default: as before.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Optimising(Given):
    """How weights come of crops."""

    panel: ClassVar[str | None] = "Learning"

    average_steps: Annotated[
        int | None,
        typer.Option(
            help="Validate and keep the mean of the weights over so many steps; 0: the last ones. "
            "Default: 0 (paper), 1000 (robust).",
            min=0,
        ),
    ] = None
    clip: Annotated[
        float | None,
        typer.Option(help="Largest norm of the gradient. Default: any (paper), 5 (robust)."),
    ] = None
    weight_decay: Annotated[
        float | None, typer.Option(help="Pull of the weights towards 0. Default: 0.0001.")
    ] = None
    freeze_encoder: Annotated[
        bool,
        typer.Option(
            "--freeze-encoder",
            help="With --from: only the decoders learn; for very few objects.",
        ),
    ] = False
    seed: Annotated[int, typer.Option(help="Decides all that is random.", min=0)] = 0


@dataclass(frozen=True, kw_only=True)
class Cropping:
    """What a crop is."""

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
    """Which crops are cut how often."""

    panel: ClassVar[str | None] = "Crops"

    empty_share: Annotated[
        float | None,
        typer.Option(
            help="Fraction of the crops that show no object, or hardly one. Default: 0 (paper), "
            "0.05 (robust)."
        ),
    ] = None
    hard_share: Annotated[
        float | None,
        typer.Option(help="Fraction from the images with the largest current error. Default: 0."),
    ] = None
    small_objects: Annotated[
        float | None,
        typer.Option(
            help="How many times as often objects below half the median size are drawn. Default: 1."
        ),
    ] = None
    synthetic_ranges: Annotated[
        float | None,
        typer.Option(
            help="Part of the ranges of augmentation for synthetic volumes, which vary by "
            "themselves. Default: 1 (paper), 0.3 (robust)."
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Watching:
    """How one can see it learn."""

    panel: ClassVar[str | None] = "Watching"

    pictures_every: Annotated[
        int, typer.Option(help="Epochs between two sheets of pictures; 0: none.", min=0)
    ] = 5
    tensorboard: Annotated[
        str | None, typer.Option(help="Folder to write for TensorBoard.", metavar="DIR")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Work:
    """What does the work."""

    panel: ClassVar[str | None] = "Work"

    device: Annotated[
        str | None, typer.Option(help="cpu or cuda. Default: cuda where there is one.")
    ] = None
    dtype: Annotated[
        str,
        typer.Option(
            help="Of the convolutions: float32, bfloat16, float16; auto: bfloat16 where the "
            "processor has it."
        ),
    ] = "auto"
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads of torch on the CPU. Default: one per core; fewer beside other work.",
            min=1,
        ),
    ] = None
    workers: Annotated[
        int, typer.Option(help="Processes that cut crops beside the training.", min=0)
    ] = 0
