"""A random forest in place of a network: classes of voxels from filters at several scales.

It is learnt in seconds, from a few strokes. What a model file holds are no trees but the samples
that they are grown from, always in the same way: a table of numbers is safe to read from anyone's
file, which trees saved by scikit-learn are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedseg_large.errors import UsageError
from embedseg_large.network.settings import WITHOUT_NETWORK

FOREST = WITHOUT_NETWORK
"""What it is called as a backbone, and in `train`."""
CLASSES = 3
SAMPLES = 6000
"""Voxels that trees are grown from, as many of each class; drawn repeatedly where there are few."""
SCALES = (0.5, 4.0)
"""Deviation of the finest and the coarsest Gaussian, in voxels; each is twice the one before."""
CONTEXT = 24
"""Voxels that the filters see on each side: four deviations, and two for derivatives, rounded up to
a multiple of the stride. So predictions of tiles are those of the whole, bit for bit."""
TREES, DEEPEST = 50, 12
LEAST = 1e-3
"""Of a probability, so that its logarithm is finite."""
_SCALES = 4


def feature_count(ndim: int, channels: int) -> int:
    """Return the number of features: brightness, edge, and curvatures, at each scale."""
    return channels * _SCALES * (2 + ndim)


def forest_shapes(ndim: int, channels: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a forest's tensors by name."""
    return {"samples": (SAMPLES, feature_count(ndim, channels)), "classes": (SAMPLES,)}


def check_forest() -> None:
    """Refuse to go on without the libraries.

    Raises
    ------
    UsageError
        With the command that installs them.
    """
    try:
        import skimage.feature  # noqa: F401
        import sklearn.ensemble  # noqa: F401
    except ModuleNotFoundError:
        raise UsageError(
            "the method forest needs scikit-learn and scikit-image; pip install "
            '"embedseg-large[forest]"'
        ) from None


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

    library: Any = feature  # not annotated
    low, high = SCALES
    found: NDArray[np.float32] = library.multiscale_basic_features(
        image, sigma_min=low, sigma_max=high, num_sigma=_SCALES, channel_axis=0
    )
    return found


class Forest:
    """Raw channels of images, as a network returns them: logarithms of the classes' probabilities.

    Parameters
    ----------
    weights
        ``samples`` float32 ``(SAMPLES, features)`` and ``classes`` ``(SAMPLES,)`` from 0.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        check_forest()
        self._samples = np.ascontiguousarray(weights["samples"].numpy(), np.float32)
        self._classes = np.ascontiguousarray(weights["classes"].numpy(), np.int64)

    def __call__(self, images: Tensor) -> Tensor:
        """Predict ``(n, CLASSES, *spatial)`` float32 of ``(n, channels, *spatial)``."""
        each = [self._raw(image) for image in images.detach().cpu().numpy()]
        return torch.from_numpy(np.stack(each))

    def _raw(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        trees = _grown(self._samples.tobytes(), self._classes.tobytes())
        seen = features(np.asarray(image, np.float32))
        chances = np.zeros((CLASSES, seen[..., 0].size), np.float32)
        chances[trees.classes_] = trees.predict_proba(seen.reshape(-1, seen.shape[-1])).T
        return np.log(np.maximum(chances, LEAST)).reshape(CLASSES, *image.shape[1:])


@lru_cache(maxsize=4)
def _grown(samples: bytes, classes: bytes) -> Any:
    """Grow the trees, once for a model; in one thread, whose sums have one order."""
    from sklearn.ensemble import RandomForestClassifier

    trees = RandomForestClassifier(TREES, max_depth=DEEPEST, random_state=0, n_jobs=1)
    table = np.frombuffer(samples, np.float32).reshape(SAMPLES, -1)
    return trees.fit(table, np.frombuffer(classes, np.int64))
