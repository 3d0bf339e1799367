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

    learning_rate: float = 5e-4
    """At the first epoch; falls to 0 as (1 - epoch / epochs) ** 0.9."""

    weight_decay: float = 1e-4
    """Of Adam, L2."""

    seed: int = 0
    """Chooses weights, crops, augmentation and dropout."""

    dtype: str = "float32"
    """Number format of the convolutions: float32, bfloat16 or float16. The loss is float32."""

    workers: int = 0
    """Processes that cut crops beside the training; 0: none."""

    validate_every: int = 1
    """Epochs between two validations."""

    patience: int | None = None
    """Validations without a better one after which training stops; None: never."""

    freeze_encoder: bool = False
    """Whether only the decoders learn; for fine-tuning on very few objects."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulate", "validate_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.learning_rate <= 0:
            raise UsageError(f"learning_rate is {self.learning_rate}; it must be positive")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise UsageError(f"dtype is {self.dtype!r}; use float32, bfloat16 or float16")

    def as_dict(self) -> dict[str, Any]:
        """The settings as values that JSON can hold."""
        return asdict(self)
