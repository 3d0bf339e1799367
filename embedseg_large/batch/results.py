"""Results of the images of a batch: as values, as a table, and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Status = Literal["done", "finished before", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageResult:
    """Result of one image."""

    name: str
    image: str
    """Path or URL, without credentials."""
    status: Status
    n_instances: int | None = None
    """Number of instances; None if it failed."""
    labels: str = ""
    """Path of its mask, or of its labels; empty if it failed."""
    joined: int | None = None
    """Number of instances larger than the largest halo, see the seam report."""
    shape: tuple[int, ...] = ()
    """Shape of the mask: (t,) (z,) y, x."""
    seconds: float | None = None
    """Duration of its run."""
    error: str = ""
    """Reason of the failure."""

    def as_dict(self) -> dict[str, Any]:
        """The result as values that JSON can hold."""
        return asdict(self) | {"shape": list(self.shape)}


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """Results of all images."""

    images: tuple[ImageResult, ...]
    out: str
    """Folder of the table and the contact sheet."""
    table: str
    """Path of the table."""
    contact_sheet: str | None
    """Path of the picture; None if there is nothing to show."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def count(self, status: Status) -> int:
        """Return how many images have a status."""
        return sum(image.status == status for image in self.images)

    @property
    def failed(self) -> tuple[ImageResult, ...]:
        """Images without a mask."""
        return tuple(image for image in self.images if image.status == "failed")

    def as_dict(self) -> dict[str, Any]:
        """The result as values that JSON can hold."""
        return {
            "n_images": len(self),
            "done": self.count("done"),
            "finished_before": self.count("finished before"),
            "failed": self.count("failed"),
            "n_instances": sum(image.n_instances or 0 for image in self.images),
            "out": self.out,
            "table": self.table,
            "contact_sheet": self.contact_sheet,
            "images": [image.as_dict() for image in self.images],
        }


def table_of(results: Sequence[ImageResult]) -> dict[str, NDArray[Any]]:
    """The columns of the table of images."""
    return {
        "name": np.array([r.name for r in results]),
        "image": np.array([r.image for r in results]),
        "status": np.array([r.status for r in results]),
        "instances": np.array(["" if r.n_instances is None else r.n_instances for r in results]),
        "joined": np.array(["" if r.joined is None else r.joined for r in results]),
        "shape": np.array([" x ".join(map(str, r.shape)) for r in results]),
        "seconds": np.array(["" if r.seconds is None else f"{r.seconds:.2f}" for r in results]),
        "labels": np.array([r.labels for r in results]),
        "error": np.array([r.error for r in results]),
    }


def caption_of(result: ImageResult) -> str:
    """Caption below the view of an image."""
    told = "failed" if result.n_instances is None else f"{result.n_instances:,}"
    return f"{result.name} · {told}"


def title_of(results: Sequence[ImageResult], labels: str, n_shown: int) -> str:
    """Title above the views; `n_shown` of the images have one."""
    found = sum(result.n_instances or 0 for result in results)
    title = f"{labels}: {found:,} instances in {len(results):,} images"
    return title if n_shown == len(results) else f"{title} · {n_shown} of them"
