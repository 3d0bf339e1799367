"""How a model is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from math import ceil
from typing import Any

from embedseg_large.errors import UsageError
from embedseg_large.network.settings import BACKBONES, EMBEDSEG, ERFNET
from embedseg_large.training.schedule import SCHEDULES

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    "robust": {
        "steps": 10_000,
        "accumulate": 1,
        "schedule": "cosine",
        "warmup": 300,
        "clip": 5.0,
        "average_steps": 1000,
        "empty_share": 0.05,
        "late_share": 0.2,
        "late_ranges": 0.5,
        "synthetic_ranges": 0.3,
    },
}
"""Settings of each recipe, where they differ from the paper's."""

DEFAULT_RECIPE = "paper"
"""The default recipe."""

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """Settings of an optimisation; defaults are the paper's (Lalit et al. 2021, section 4).

    Raises
    ------
    UsageError
        If a value is out of range; the message names it.
    """

    method: str = EMBEDSEG
    """What is learnt, and how instances come of it: see `embedseg_large.methods`."""

    backbone: str = ERFNET
    """The network: erfnet, the paper's, or unet."""

    epochs: int = 200
    """Passes over all annotated objects, if no number of steps is given."""

    steps: int | None = None
    """Number of optimiser steps, for any number of objects; an epoch then has `epoch_steps`. None:
    determined by the epochs."""

    epoch_steps: int = 500
    """With `steps`: number of steps after which the state is saved and validation may run."""

    batch: int = 2
    """Crops per pass of the network."""

    accumulate: int = 8
    """Batches whose gradients are accumulated for one optimiser step."""

    epoch_crops: int | None = None
    """Crops per epoch, fewer than there are objects; None: every annotated object once. They are
    sampled so that an image's share grows with the square root of its number of objects."""

    learning_rate: float = 5e-4
    """The maximum learning rate, from which it falls to 0."""

    schedule: str = "polynomial"
    """How the learning rate falls: polynomial, as (1 - epoch / epochs) ** 0.9, or cosine."""

    warmup: int = 0
    """Steps over which the learning rate initially grows; at most a tenth of all."""

    clip: float | None = None
    """Maximum norm of the gradient; longer ones are scaled down to it. None: unlimited."""

    weight_decay: float = 1e-4
    """Weight decay of Adam (L2)."""

    average_steps: int = 0
    """Number of steps covered by the running mean of the weights, which is validated and kept
    instead of the last weights; 0: no mean."""

    empty_share: float = 0.0
    """Fraction of the crops from places with no object, or hardly any."""

    hard_share: float = 0.0
    """Fraction of the crops from the annotated images with the largest current error; the others
    come from all images."""

    small_objects: float = 1.0
    """Factor by which an annotated object with less than half the voxels of the median object is
    sampled more often."""

    synthetic_ranges: float = 1.0
    """Factor on the ranges of augmentation for crops of synthetic volumes, which already vary; 0 to
    1."""

    late_share: float = 0.0
    """Share of the training at its end that uses different settings, rounded to whole epochs; 0:
    none."""

    late_crop: tuple[int, ...] | None = None
    """Shape of a crop in that part; None: unchanged."""

    late_ranges: float = 1.0
    """Factor on the ranges of augmentation in that part; 0 to 1."""

    late_synthetic_share: float | None = None
    """Fraction of the crops from synthetic volumes in that part; None: unchanged."""

    seed: int = 0
    """Seed of weights, crops, augmentation and dropout."""

    dtype: str = "auto"
    """Number format of the convolutions: float32, bfloat16, float16; auto: bfloat16 if the
    processor supports it natively, else float32. Batch normalisation and loss are float32."""

    workers: int = 0
    """Processes that prepare crops during training; 0: none."""

    threads: int | None = None
    """Threads of torch on the CPU; None: one per core. Fewer are faster next to other work."""

    validate_every: int = 1
    """Number of epochs between validations."""

    pictures_every: int = 5
    """Number of epochs between sheets of pictures, plus one after the last epoch; 0: none."""

    patience: int | None = None
    """Number of validations without improvement after which training stops; None: never."""

    freeze_encoder: bool = False
    """Whether only the decoders are trained; for fine-tuning on very few objects."""

    def __post_init__(self) -> None:
        from embedseg_large.methods.registry import check_usable  # imports numba, slow for --help

        check_usable(self.method)
        if self.backbone not in BACKBONES:
            raise UsageError(f"backbone is {self.backbone!r}; use {_listed(BACKBONES)}")
        whole = ("epochs", "steps", "epoch_steps", "batch", "accumulate", "epoch_crops")
        for name in (*whole, "validate_every", "patience", "threads", "small_objects"):
            self._check(name, least=1)
        more = ("seed", "workers", "pictures_every", "weight_decay", "average_steps", "warmup")
        for name in more:
            self._check(name, least=0)
        shares = ("empty_share", "hard_share", "late_share", "late_ranges", "synthetic_ranges")
        for name in (*shares, "late_synthetic_share"):
            self._check(name, least=0, most=1)
        if self.learning_rate <= 0:
            raise UsageError(f"learning_rate is {self.learning_rate}; it must be positive")
        if self.clip is not None and self.clip <= 0:
            raise UsageError(f"clip is {self.clip}; it must be positive")
        for name, known in (("dtype", DTYPES), ("schedule", SCHEDULES)):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} is {getattr(self, name)!r}; use {_listed(known)}")
        if self.steps is not None and self.epoch_crops is not None:
            raise UsageError(
                "steps and epoch_crops are both given; with steps, an epoch is epoch_steps long"
            )
        if self.late_crop is not None and any(n < 8 or n % 8 for n in self.late_crop):
            raise UsageError(f"late_crop is {self.late_crop}; pass multiples of 8")
        if self.late_share == 0 and (self.late_crop or self.late_synthetic_share is not None):
            raise UsageError("late_share is 0, so there is no late part; pass a late_share")

    def _check(self, name: str, *, least: float, most: float = float("inf")) -> None:
        value = getattr(self, name)
        if value is not None and not least <= value <= most:
            limit = f"at least {least}" if most == float("inf") else f"from {least} to {most}"
            raise UsageError(f"{name} is {value}; it must be {limit}")

    @classmethod
    def of_recipe(cls, recipe: str, **given: Any) -> TrainSettings:
        """Return the settings of a recipe, some of them replaced.

        Parameters
        ----------
        recipe
            ``paper`` or ``robust`` (see `RECIPES`).
        given
            Fields of this class. `epochs` replaces a number of steps.

        Raises
        ------
        UsageError
            If there is no such recipe or setting, or a value is out of range.
        """
        if recipe not in RECIPES:
            raise UsageError(f"recipe is {recipe!r}; use {_listed(tuple(RECIPES))}")
        names = [field.name for field in fields(cls)]
        for name in given:
            if name not in names:
                close = get_close_matches(name, names, 1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise UsageError(f"there is no setting {name!r} of a training{hint}")
        if given.get("epochs") is not None and given.get("steps") is not None:
            raise UsageError("epochs and steps are both given; pass one of them")
        values = dict(RECIPES[recipe])
        if given.keys() & {"epochs", "epoch_crops"}:
            values.pop("steps", None)
        return cls(**values | given)

    @property
    def n_epochs(self) -> int:
        """Number of epochs, stated or derived from the number of steps."""
        return self.epochs if self.steps is None else ceil(self.steps / self.epoch_steps)

    @property
    def first_late(self) -> int:
        """The first epoch of the late part, counted from 0; `n_epochs` if there is none."""
        return self.n_epochs - round(self.late_share * self.n_epochs)

    def as_dict(self) -> dict[str, Any]:
        """The settings as values that JSON can hold."""
        values = asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    def deciding(self) -> dict[str, Any]:
        """The settings that affect what is learned, without those on hardware and pictures."""
        values = self.as_dict() | {"workers": 0, "threads": None}
        del values["pictures_every"]
        for name, usual in (("method", EMBEDSEG), ("backbone", ERFNET)):
            if values[name] == usual:  # states of before there was a choice can be resumed
                del values[name]
        return values


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
