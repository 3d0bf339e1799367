"""How a model is trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from embedseg_large.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """Settings of an optimisation; defaults are the paper's (Lalit et al. 2021, section 4).

    Raises
    ------
    UsageError
        A value is out of its range; the message names it.
    """

    epochs: int = 200
    """Passes over all annotated objects."""

    batch: int = 2
    """Crops a pass of the network sees at once."""

    accumulate: int = 8
    """Batches whose gradients make one step of the optimiser."""

    epoch_crops: int | None = None
    """Crops of an epoch, fewer than there are objects; None: every annotated object once. They are
    drawn so that an image's share grows with the square root of its number of objects."""

    learning_rate: float = 5e-4
    """At the first epoch; falls to 0 as (1 - epoch / epochs) ** 0.9."""

    weight_decay: float = 1e-4
    """Of Adam, L2."""

    average_steps: int = 0
    """Steps that the running mean of the weights reaches back, which is validated and kept instead
    of the last weights; 0: none."""

    seed: int = 0
    """Chooses weights, crops, augmentation and dropout."""

    dtype: str = "float32"
    """Number format of the convolutions: float32, bfloat16 or float16. The loss is float32."""

    workers: int = 0
    """Processes that cut crops beside the training; 0: none."""

    validate_every: int = 1
    """Epochs between two validations."""

    pictures_every: int = 5
    """Epochs between two sheets of pictures, of which the last epoch has one, too; 0: none."""

    patience: int | None = None
    """Validations without a better one after which training stops; None: never."""

    freeze_encoder: bool = False
    """Whether only the decoders learn; for fine-tuning on very few objects."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulate", "epoch_crops", "validate_every", "patience"):
            self._check(name, least=1)
        for name in ("seed", "workers", "pictures_every", "weight_decay", "average_steps"):
            self._check(name, least=0)
        if self.learning_rate <= 0:
            raise UsageError(f"learning_rate is {self.learning_rate}; it must be positive")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise UsageError(f"dtype is {self.dtype!r}; use float32, bfloat16 or float16")

    def _check(self, name: str, *, least: int) -> None:
        value = getattr(self, name)
        if value is not None and value < least:
            raise UsageError(f"{name} is {value}; it must be at least {least}")

    def as_dict(self) -> dict[str, Any]:
        """The settings as values that JSON can hold."""
        return asdict(self)

    def deciding(self) -> dict[str, Any]:
        """Those that decide what is learnt: not how many processes cut crops, nor what is drawn."""
        values = self.as_dict() | {"workers": 0}
        del values["pictures_every"]
        return values
