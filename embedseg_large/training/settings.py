"""How a model is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from math import ceil, inf
from typing import Any

from embedseg_large.errors import UsageError
from embedseg_large.network.settings import BACKBONES, EMBEDSEG, ERFNET
from embedseg_large.training.recipe_options import RecipeOptions
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
        "batch_norm": "frozen",
        "empty_share": 0.05,
        "late_share": 0.2,
        "late_ranges": 0.5,
        "synthetic_ranges": 0.3,
    },
}
"""Settings of each recipe, where they differ from the paper's."""

BATCH_NORMS = ("batch", "frozen")
FROZEN_SHARE = 0.5
"""Last part of a training from scratch in which statistics are frozen, if they are at all."""

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class TrainSettings(RecipeOptions):
    """Settings of an optimisation, checked; defaults are the paper's.

    Raises
    ------
    UsageError
        If a value is out of range; the message names it.
    """

    def __post_init__(self) -> None:
        from embedseg_large.methods.registry import check_usable  # imports numba, slow for --help

        check_usable(self.method)
        if self.backbone not in BACKBONES:
            raise UsageError(f"backbone is {self.backbone!r}; use {_listed(BACKBONES)}")
        whole = ("epochs", "steps", "epoch_steps", "batch", "accumulate", "epoch_crops")
        counts = ("statistics_crops", "validate_every", "patience", "threads")
        for name in (*whole, *counts, "small_objects"):
            self._check(name, least=1)
        more = ("seed", "workers", "pictures_every", "weight_decay", "average_steps", "warmup")
        for name in more:
            self._check(name, least=0)
        shares = ("empty_share", "hard_share", "late_share", "late_ranges", "synthetic_ranges")
        for name in (*shares, "late_synthetic_share"):
            self._check(name, least=0, most=1)
        for name in ("learning_rate", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < inf:
                raise UsageError(f"{name} is {value}; it must be positive")
        choices = (("dtype", DTYPES), ("schedule", SCHEDULES), ("batch_norm", BATCH_NORMS))
        for name, known in choices:
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
        self._check_frozen()

    def _check_frozen(self) -> None:
        share = self.frozen_share
        if share is None:
            return
        if not 0 < share <= 1:
            raise UsageError(
                f"frozen_share is {share}; it must be above 0 and at most 1 (batch_norm batch "
                "freezes nothing)"
            )
        if self.batch_norm != "frozen":
            raise UsageError(
                f"frozen_share is {share}, but batch_norm is {self.batch_norm}; pass batch_norm "
                "frozen, or leave it out"
            )

    def _check(self, name: str, *, least: float, most: float = inf) -> None:
        value = getattr(self, name)
        if value is not None and not (least <= value <= most and value < inf):
            limit = f"at least {least}" if most == inf else f"from {least} to {most}"
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

    @property
    def first_frozen(self) -> int:
        """The first epoch with frozen statistics, counted from 0; `n_epochs` if there is none."""
        if self.batch_norm != "frozen":
            return self.n_epochs
        share = FROZEN_SHARE if self.frozen_share is None else self.frozen_share
        first = self.n_epochs - round(share * self.n_epochs)
        return first if share == 1 else max(1, first)

    def as_dict(self) -> dict[str, Any]:
        """The settings as values that JSON can hold."""
        values = asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    def deciding(self) -> dict[str, Any]:
        """The settings that affect what is learned, without those on hardware and pictures."""
        values = self.as_dict() | {"workers": 0, "threads": None}
        del values["pictures_every"]
        for name, usual in (("method", EMBEDSEG), ("backbone", ERFNET)):
            if values[name] == usual:  # older states, without this setting, can still be resumed
                del values[name]
        if self.batch_norm == "batch":  # likewise
            for name in ("batch_norm", "frozen_share", "statistics_crops"):
                del values[name]
        return values


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
