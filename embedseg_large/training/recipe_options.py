"""How weights are learned: settings that a recipe chooses and a user can override."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from embedseg_large.network.settings import EMBEDSEG, ERFNET
from embedseg_large.options import Flag, Options


@dataclass(frozen=True, kw_only=True)
class MethodOptions(Options):
    """What the network learns, and which network it is."""

    method: Annotated[
        str,
        Flag(
            "What the network learns: embedseg, three-class, two-class, flows, affinities, "
            "stardist, "
            "harmonic, or forest (a pixel classifier, in seconds). Default: embedseg, or that "
            "of --from."
        ),
    ] = EMBEDSEG
    """What the network learns, and how instances are made from it: see `embedseg_large.methods`."""
    backbone: Annotated[
        str, Flag("Network: erfnet or unet. Default: erfnet, or that of --from.")
    ] = ERFNET
    """The network: erfnet, the paper's, or unet."""


@dataclass(frozen=True, kw_only=True)
class LengthOptions(Options):
    """Length of the training, and the learning rate."""

    heading: ClassVar[str | None] = "Length and learning rate"

    epochs: Annotated[
        int, Flag("Passes over the annotated objects. Default: 200 (paper).", min=1)
    ] = 200
    """Passes over all annotated objects, if no number of steps is given."""
    epoch_crops: Annotated[
        int | None,
        Flag(
            "Objects per epoch, sampled anew each time; objects in images with few of them are "
            "sampled more often. Default: all.",
            min=1,
        ),
    ] = None
    """Crops per epoch, fewer than there are objects; None: every annotated object once. They are
    sampled so that an image's share grows with the square root of its number of objects."""
    steps: Annotated[
        int | None,
        Flag("Instead of --epochs: number of optimiser steps. Default: 10000 (robust).", min=1),
    ] = None
    """Number of optimiser steps, for any number of objects; an epoch then has `epoch_steps`. None:
    determined by the epochs."""
    epoch_steps: Annotated[
        int,
        Flag(
            "With --steps: steps between log lines, saved states and validations. Default: 500.",
            min=1,
        ),
    ] = 500
    """With `steps`: number of steps after which the state is saved and validation may run."""
    batch: Annotated[int, Flag("Crops per batch; memory grows with it. Default: 2.", min=1)] = 2
    """Crops per pass of the network."""
    accumulate: Annotated[
        int, Flag("Batches per optimiser step. Default: 8 (paper), 1 (robust).", min=1)
    ] = 8
    """Batches whose gradients are accumulated for one optimiser step."""
    learning_rate: Annotated[
        float, Flag("Maximum learning rate; for fine-tuning try 0.0001. Default: 0.0005.")
    ] = 5e-4
    """The maximum learning rate, from which it falls to 0."""
    schedule: Annotated[
        str, Flag("How the learning rate falls to 0: polynomial (paper) or cosine (robust).")
    ] = "polynomial"
    """How the learning rate falls: polynomial, as (1 - epoch / epochs) ** 0.9, or cosine."""
    warmup: Annotated[
        int,
        Flag(
            "Steps over which the rate grows at the start. Default: 0 (paper), 300 (robust).", min=0
        ),
    ] = 0
    """Steps over which the learning rate initially grows; at most a tenth of all."""
    late_share: Annotated[
        float,
        Flag(
            "Last part of the training, in which the next three options apply. Default: 0 "
            "(paper), 0.2 (robust)."
        ),
    ] = 0.0
    """Share of the training at its end that uses different settings, rounded to whole epochs; 0:
    none."""
    late_crop: Annotated[
        tuple[int, ...] | None,
        Flag("Voxels of a crop in that part. Default: unchanged.", form="sizes"),
    ] = None
    """Shape of a crop in that part; None: unchanged."""
    late_ranges: Annotated[
        float,
        Flag(
            "Factor on the ranges of augmentation in that part. Default: 1 (paper), 0.5 (robust)."
        ),
    ] = 1.0
    """Factor on the ranges of augmentation in that part; 0 to 1."""
    late_synthetic_share: Annotated[
        float | None, Flag("--synthetic-share in that part. Default: unchanged.")
    ] = None
    """Fraction of the crops from synthetic volumes in that part; None: unchanged."""


@dataclass(frozen=True, kw_only=True)
class OptimiserOptions(Options):
    """How weights are learned from crops."""

    heading: ClassVar[str | None] = "Learning"

    average_steps: Annotated[
        int,
        Flag(
            "Validate and keep the mean of the weights over this many steps; 0: the current "
            "weights. Default: 0 (paper), 1000 (robust).",
            min=0,
        ),
    ] = 0
    """Number of steps covered by the running mean of the weights, which is validated and kept
    instead of the last weights; 0: no mean."""
    clip: Annotated[
        float | None,
        Flag("Maximum norm of the gradient. Default: unlimited (paper), 5 (robust)."),
    ] = None
    """Maximum norm of the gradient; longer ones are scaled down to it. None: unlimited."""
    batch_norm: Annotated[
        str,
        Flag(
            "Statistics that batch normalisation uses in training: batch, those of each batch, or "
            "frozen, fixed ones as in inference: with --from from the start, else in the last part "
            "of the training. Default: frozen (robust, or with --from), else batch."
        ),
    ] = "batch"
    """Statistics that batch normalisation uses in training: ``batch``, those of each batch, or
    ``frozen``, fixed ones, as in inference; then training and inference compute the same. A model
    to start from keeps its statistics, and is trained with them unless ``batch`` is stated; random
    weights are trained with those of batches first. See `embedseg_large.training.normalisation`."""
    frozen_share: Annotated[
        float | None,
        Flag(
            "With --batch-norm frozen: last part of the training in which the statistics are "
            "fixed; at its start they are measured. Default: 1 (all) with --from, else 0.5."
        ),
    ] = None
    """Share of the training at its end in which the statistics of batch normalisation are frozen,
    rounded to whole epochs. 1: from the start, with the statistics of the model to start from;
    less: they are measured on `statistics_crops` at the changeover. None: 1 with a model to start
    from, else 0.5."""
    statistics_crops: Annotated[
        int,
        Flag(
            "Training crops on which these statistics are measured. Default: 256, at most those "
            "of an epoch.",
            min=1,
        ),
    ] = 256
    """Number of crops on which the statistics are measured before they are frozen: the first crops
    of the epoch, at most all of them."""
    weight_decay: Annotated[float, Flag("Weight decay of the optimiser. Default: 0.0001.")] = 1e-4
    """Weight decay of Adam (L2)."""
    freeze_encoder: Annotated[
        bool, Flag("With --from: train only the decoders; for very few objects.")
    ] = False
    """Whether only the decoders are trained; for fine-tuning on very few objects. The encoder
    computes what it does in inference: its statistics are kept, and nothing in it is dropped
    out."""
    seed: Annotated[int, Flag("Seed of all random numbers.", min=0, shows_default=True)] = 0
    """Seed of weights, crops, augmentation and dropout."""


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(Options):
    """How often which crops are sampled."""

    heading: ClassVar[str | None] = "Crops"

    empty_share: Annotated[
        float,
        Flag(
            "Fraction of the crops with no object, or hardly any. Default: 0 (paper), "
            "0.05 (robust)."
        ),
    ] = 0.0
    """Fraction of the crops from places with no object, or hardly any."""
    hard_share: Annotated[
        float,
        Flag("Fraction of the crops from the images with the largest current error. Default: 0."),
    ] = 0.0
    """Fraction of the crops from the annotated images with the largest current error; the others
    come from all images."""
    small_objects: Annotated[
        float,
        Flag(
            "Factor by which objects below half the median size are sampled more often. Default: 1."
        ),
    ] = 1.0
    """Factor by which an annotated object with less than half the voxels of the median object is
    sampled more often."""
    synthetic_ranges: Annotated[
        float,
        Flag(
            "Factor on the ranges of augmentation for synthetic volumes, which already "
            "vary. Default: 1 (paper), 0.3 (robust)."
        ),
    ] = 1.0
    """Factor on the ranges of augmentation for crops of synthetic volumes, which already vary; 0 to
    1."""


@dataclass(frozen=True, kw_only=True)
class PauseOptions(Options):
    """When the model is validated, and when training stops."""

    heading: ClassVar[str | None] = "Validation"

    validate_every: Annotated[
        int, Flag("Number of epochs between validations.", min=1, shows_default=True)
    ] = 1
    """Number of epochs between validations."""
    patience: Annotated[
        int | None,
        Flag("Stop after this many validations without a better model. Default: never.", min=1),
    ] = None
    """Number of validations without improvement after which training stops; None: never."""


@dataclass(frozen=True, kw_only=True)
class PictureOptions(Options):
    """Pictures of the training."""

    heading: ClassVar[str | None] = "Watching"

    pictures_every: Annotated[
        int, Flag("Epochs between sheets of pictures; 0: none.", min=0, shows_default=True)
    ] = 5
    """Number of epochs between sheets of pictures, plus one after the last epoch; 0: none."""


@dataclass(frozen=True, kw_only=True)
class HardwareOptions(Options):
    """Number format, threads and processes."""

    heading: ClassVar[str | None] = "Work"

    dtype: Annotated[
        str,
        Flag(
            "Number format of convolutions: float32, bfloat16, float16; auto: bfloat16 if the "
            "processor supports it.",
            shows_default=True,
        ),
    ] = "auto"
    """Number format of the convolutions: float32, bfloat16, float16; auto: bfloat16 if the
    processor supports it natively, else float32. Batch normalisation and loss are float32."""
    threads: Annotated[
        int | None,
        Flag(
            "Threads of torch on the CPU. Default: one per core; use fewer next to other work.",
            min=1,
        ),
    ] = None
    """Threads of torch on the CPU; None: one per core. Fewer are faster next to other work."""
    workers: Annotated[
        int, Flag("Processes that prepare crops during training.", min=0, shows_default=True)
    ] = 0
    """Processes that prepare crops during training; 0: none."""


@dataclass(frozen=True, kw_only=True)
class RecipeOptions(
    HardwareOptions,
    PictureOptions,
    PauseOptions,
    SamplingOptions,
    OptimiserOptions,
    LengthOptions,
    MethodOptions,
):
    """All of them; defaults are the paper's (Lalit et al. 2021, section 4)."""
