"""A random forest in place of a network: classes of voxels from filters at several scales.

It is trained in seconds, from a few strokes. A model file holds not the trees but the samples from
which they are grown, deterministically: a table of numbers is safe to read from an untrusted file,
trees saved by scikit-learn are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedseg_large.errors import ModelError
from embedseg_large.extras import extra
from embedseg_large.network.memory import Memory
from embedseg_large.network.settings import WITHOUT_NETWORK

FOREST = WITHOUT_NETWORK
"""Its name as a backbone, and in `train`."""
CLASSES = 3
SAMPLES = 6000
"""Number of voxels from which trees are grown, equally many per class; drawn with repetition if
there are few."""
SCALES = (0.5, 4.0)
"""Deviation of the finest and the coarsest Gaussian, in voxels; each scale doubles the previous
one."""
CONTEXT = 24
"""Voxels that the filters see on each side: four deviations, and two voxels for derivatives,
rounded up to a multiple of the stride. Predictions of tiles therefore equal those of the whole, bit
for bit."""
TREES, DEEPEST = 50, 12
LEAST = 1e-3
"""Minimum probability, so that its logarithm is finite."""
_SCALES = 4


def feature_count(ndim: int, channels: int) -> int:
    """Return the number of features: intensity, edge strength and curvatures at each scale."""
    return channels * _SCALES * (2 + ndim)


def forest_shapes(ndim: int, channels: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a forest's tensors by name."""
    table = (SAMPLES, feature_count(ndim, channels))
    return {"samples": table, "classes": (SAMPLES,), "odds": (CLASSES,)}


def check_forest() -> None:
    """Raise if the required libraries are not installed.

    Raises
    ------
    UsageError
        The message includes the command that installs them.
    """
    with extra("forest", "the method forest"):
        import sklearn.ensemble  # noqa: F401


def features(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Filter an image at several scales.

    Parameters
    ----------
    image
        ``(channels, *spatial)``, normalised.

    Returns
    -------
    ``(*spatial, features)``
    """
    from skimage import feature

    library: Any = feature  # has no annotations
    low, high = SCALES
    found: NDArray[np.float32] = library.multiscale_basic_features(
        image, sigma_min=low, sigma_max=high, num_sigma=_SCALES, channel_axis=0
    )
    return found


class Forest:
    """A forest in the form of a network: raw channels are log-probabilities, up to a constant.

    Parameters
    ----------
    weights
        ``samples`` float32 ``(SAMPLES, features)``; ``classes`` ``(SAMPLES,)`` from 0; ``odds``
        float32 ``(CLASSES,)``: factor on the probability of each class, because samples are drawn
        equally often from all classes, and voxels of an image are not.

    Raises
    ------
    ModelError
        If a file says what no forest can be grown from.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        check_forest()
        self._samples = np.ascontiguousarray(weights["samples"].numpy(), np.float32)
        self._classes = np.ascontiguousarray(weights["classes"].numpy(), np.int64)
        odds = weights["odds"].numpy().astype(np.float32)
        if not (np.isfinite(self._samples).all() and np.isfinite(odds).all()):
            raise ModelError("the forest has samples or odds that are not finite; train it again")
        if self._classes.min() < 0 or self._classes.max() >= CLASSES:
            raise ModelError(f"the forest has classes beyond 0 to {CLASSES - 1}; train it again")
        self._odds = np.maximum(odds, LEAST)

    def __call__(self, images: Tensor, _: Memory | None = None) -> Tensor:
        """Map ``(n, channels, *spatial)`` to float32 ``(n, CLASSES, *spatial)``."""
        each = [self._raw(image) for image in images.detach().cpu().numpy()]
        return torch.from_numpy(np.stack(each))

    def _raw(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        trees = _grown(self._samples.tobytes(), self._classes.tobytes())
        seen = features(np.asarray(image, np.float32))
        chances = np.zeros((CLASSES, seen[..., 0].size), np.float32)
        chances[trees.classes_] = trees.predict_proba(seen.reshape(-1, seen.shape[-1])).T
        raw = np.log(np.maximum(chances, LEAST)) + np.log(self._odds)[:, np.newaxis]
        return raw.reshape(CLASSES, *image.shape[1:])


@lru_cache(maxsize=4)
def _grown(samples: bytes, classes: bytes) -> Any:
    """Grow the trees, once per model; in one thread, so that sums have a fixed order."""
    from sklearn.ensemble import RandomForestClassifier

    trees = RandomForestClassifier(TREES, max_depth=DEEPEST, random_state=0, n_jobs=1)
    table = np.frombuffer(samples, np.float32).reshape(SAMPLES, -1)
    return trees.fit(table, np.frombuffer(classes, np.int64))
