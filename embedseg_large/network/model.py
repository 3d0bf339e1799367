"""A trained model: weights and settings, and how they turn an image into embeddings."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedseg_large.embedding import Embedding, Quiet, dequantise, quantise
from embedseg_large.errors import ModelError, RunError, UsageError
from embedseg_large.geometry import Box
from embedseg_large.network.backbones import inference_network
from embedseg_large.network.device import (
    available_cores,
    checked_device,
    free_unused,
    lanes_that_fit,
    passes_that_fit,
)
from embedseg_large.network.lanes import Lanes, in_order
from embedseg_large.network.memory import Memory
from embedseg_large.network.modelfile import StoredModel, write_model_file
from embedseg_large.network.settings import (
    EMBEDSEG,
    STRIDE,
    WITHOUT_NETWORK,
    ModelSettings,
    Thresholds,
)
from embedseg_large.network.tta import Each, mean_raw
from embedseg_large.symmetry import MODES, SignedPermutation, group

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Measured on the CPU at 64 x 96 x 96 voxels with 16 passes, as growth of the resident memory
# (erfnet: 226, 309 and 470 with 1, 2 and 4 lanes; unet: 954 and 1570 with 1 and 2, and 4 passes),
# plus a tenth.
BYTES_PER_VOXEL = {"erfnet": (250.0, 90.0), "unet": (1050.0, 680.0), "forest": (640.0, 640.0)}
"""By backbone: for the first lane, and for each additional one."""

AUGMENT_ABOVE = 0.2
"""If no voxel of the first pass exceeds this, the mean of 16 passes stayed below 0.46 on all
volumes of the panel, in cores of 8 voxels and more. So nothing becomes foreground, which requires
0.5; see docs/design/speed.md."""


class Model:
    """A trained network with what is needed to use it.

    Parameters
    ----------
    weights
        Tensors of the network by name; they are copied.
    settings
        Pitch, sizes and the like.
    card
        Model card: training data, scores, limits, licence.
    device
        ``cpu``, ``cuda``, ``cuda:INDEX`` or ``mps``.
    dtype
        Number format of the convolutions: float32, bfloat16 or float16. Results are float32.
    lanes
        Number of passes of the network that run concurrently on the CPU, each on one thread;
        default: the number of cores. It affects speed and memory, but not a bit of the result.

    Raises
    ------
    UsageError
        If the device, dtype or number of lanes cannot be used.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        settings: ModelSettings,
        *,
        card: Mapping[str, Any] | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        lanes: int | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise UsageError(f"dtype is {dtype!r}; use one of {', '.join(DTYPES)}")
        if lanes is not None and lanes < 1:
            raise UsageError(f"lanes is {lanes}; use at least 1")
        self.settings = settings
        self.card = dict(card or {})
        self.device = checked_device(device)
        self.dtype = dtype
        self.lanes = lanes or available_cores()
        self._shared: Lanes | None = None
        # as passed: normalisations are folded into those of the network
        self._weights = {name: t.detach().to("cpu", copy=True) for name, t in weights.items()}
        self._network = inference_network(self._weights, settings, self.device, DTYPES[dtype])

    def __repr__(self) -> str:
        return (
            f"Model({self.ndim}D, {self.channels} channel{'s' * (self.channels > 1)}, "
            f"objects of about {self.object_diameter or 0:.3g} voxels, on {self.device})"
        )

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return self.settings.ndim

    @property
    def channels(self) -> int:
        """Number of image channels."""
        return self.settings.channels

    @property
    def pitch(self) -> tuple[float, ...]:
        """Size of a voxel in the network's units (z, y, x)."""
        return self.settings.pitch

    @property
    def extent(self) -> tuple[int, ...]:
        """Largest extent of an object of the training data, in voxels (z, y, x)."""
        return self.settings.extent

    @property
    def tile(self) -> tuple[int, ...]:
        """Core of a prediction tile, in voxels (z, y, x)."""
        return self.settings.tile

    @property
    def tile_adapts(self) -> bool:
        """Whether tiles may have another shape than `tile`, with an input of at most its size."""
        return True

    @property
    def context(self) -> tuple[int, ...]:
        """Voxels the network should see on each side of a core (z, y, x)."""
        return self.settings.context

    @property
    def halo(self) -> tuple[int, ...]:
        """Voxels of predictions that clustering should see on each side of a core (z, y, x)."""
        return self.settings.halo

    @property
    def reach(self) -> tuple[float, ...]:
        """Longest offset that is accepted, in voxels (z, y, x)."""
        return self.settings.reach

    @property
    def min_object_size(self) -> int:
        """Only instances with more voxels than this are kept."""
        return self.settings.min_object_size

    @property
    def seed(self) -> float:
        """Minimum seediness for a voxel to seed an instance, after one pass of the network."""
        return self.settings.seed

    @property
    def margin(self) -> float:
        """Gaussian value above which a voxel belongs to an instance, after one pass."""
        return self.settings.margin

    @property
    def cleaning(self) -> tuple[bool, bool]:
        """Whether to keep the largest piece of each instance only, and to fill holes."""
        return self.settings.keep_largest_piece, self.settings.fill_holes

    def thresholds_of(self, tta: bool | int | str) -> Thresholds:
        """Return the seed and the margin for a test-time augmentation (see `tta_mode`)."""
        return self.settings.thresholds_of(self.tta_mode(tta))

    @property
    def augment_above(self) -> float:
        """Seediness of the first pass above which a tile gets the others; 0: every tile does."""
        return AUGMENT_ABOVE if self.settings.method == EMBEDSEG else 0.0

    @property
    def object_diameter(self) -> float | None:
        """Mean extent of the training objects along y and x, in voxels; None if unknown."""
        return self.settings.object_diameter

    @property
    def object_depth(self) -> float | None:
        """Mean extent of the training objects along z, in voxels; None if unknown."""
        return self.settings.object_depth

    @property
    def voxel_size(self) -> tuple[float, ...] | None:
        """Voxel size of the training images in µm (z, y, x); None if unknown."""
        return self.settings.voxel_size

    @property
    def weights(self) -> dict[str, Tensor]:
        """Tensors of the network by name, on the CPU; they must not be changed."""
        return dict(self._weights)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of weights and settings that decide predictions, in hexadecimal digits."""
        digest = hashlib.sha256(json.dumps(self.settings.deciding(), sort_keys=True).encode())
        for name, tensor in sorted(self.weights.items()):
            digest.update(name.encode())
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()

    @property
    def bytes_per_voxel(self) -> float:
        """Peak memory of a prediction on the CPU per voxel of its input, in bytes, with one lane.

        More lanes are used only where memory is free.
        """
        return BYTES_PER_VOXEL[self.settings.backbone][0]

    @property
    def tta_modes(self) -> tuple[str, ...]:
        """Test-time augmentations that this model can use, smallest first."""
        names = MODES if self.ndim == 3 else MODES[:3]
        return tuple(m for m in names if self.settings.obstacle(m) is None)

    def tta_mode(self, tta: bool | int | str) -> str:
        """Return the name of a test-time augmentation.

        Parameters
        ----------
        tta
            False for none; True for 16 passes in 3D and 8 in 2D, or none if the model cannot
            exchange y and x; or ``none``, 4, 8, 16, 48.

        Raises
        ------
        UsageError
            If there is no such mode, or this model cannot use it.
        """
        if isinstance(tta, bool):
            useful = tta and self.settings.backbone != WITHOUT_NETWORK  # a forest is symmetric
            default = {mode for mode in self.tta_modes if mode != "48"} if useful else {"none"}
            return max(default, key=MODES.index)
        try:
            reason = self.settings.obstacle(tta)
        except ValueError as error:
            raise UsageError(f"test-time augmentation: {error}") from None
        if reason is not None:
            raise UsageError(
                f"the model cannot use test-time augmentation {tta}: {reason}; "
                f"use one of {', '.join(self.tta_modes)}"
            )
        return "none" if str(tta) == "1" else str(tta)

    def to(
        self, device: str | None = None, dtype: str | None = None, lanes: int | None = None
    ) -> Model:
        """Return this model on another device, with another dtype or number of lanes."""
        return Model(
            self.weights,
            self.settings,
            card=self.card,
            device=device or self.device,
            dtype=dtype or self.dtype,
            lanes=lanes or self.lanes,
        )

    def sharing(self, lanes: Lanes) -> Model:
        """Return this model with its CPU passes on lanes shared with other tasks."""
        same = copy.copy(self)
        same._shared = lanes
        return same

    def save(self, path: str | os.PathLike[str], dtype: str = "float32") -> None:
        """Write the model to one file, for `load_model`.

        Parameters
        ----------
        path
            The file; an existing one is replaced.
        dtype
            float32, or float16 to halve the size.
        """
        stored = StoredModel(weights=self.weights, settings=self.settings, card=self.card)
        write_model_file(stored, Path(path), dtype)

    def predict_raw(
        self,
        image: NDArray[np.floating],
        tta: bool | int | str = False,
        quiet: Quiet | None = None,
    ) -> NDArray[np.float32]:
        """Compute the network's raw channels.

        Parameters
        ----------
        image
            Normalised floating-point image, ``(*spatial)`` or ``(channels, *spatial)``, of any
            size: it is padded at the far end and the result is cropped.
        tta
            Test-time augmentation, see `tta_mode`.
        quiet
            When the first pass suffices and is returned alone. Needs a seed channel.

        Returns
        -------
        float32 ``(channels, *spatial)``, not activated: offset x, y, z, sigma x, y, z, seed; for
        another method, its fields.

        Raises
        ------
        UsageError
            If the image or the augmentation does not suit the model.
        ModelError
            If the network returns infinities or NaN.
        RunError
            If there is not enough memory even for one pass at a time.
        """
        elements = group(self.tta_mode(tta), self.ndim)
        channels = self._checked(image)
        shape = channels.shape[1:]
        padded = torch.from_numpy(_pad(channels)).to(self.device)
        raw = self._mean(padded, elements, quiet)
        if not torch.isfinite(raw).all():
            raise ModelError(
                f"the network returns infinities or NaN in {self.dtype}; "
                "use float32, or another model"
            )
        return raw.cpu().numpy()[(slice(None), *Box.whole(shape).slices)]

    def predict_stored(
        self,
        image: NDArray[np.floating],
        tta: bool | int | str = True,
        quiet: Quiet | None = None,
    ) -> NDArray[np.float16]:
        """Predict in the stored form; see `embedseg_large.embedding.quantise`.

        Parameters
        ----------
        image, quiet
            As for `predict_raw`.
        tta
            Test-time augmentation, see `tta_mode`; default: the model's own.

        Returns
        -------
        float16 ``(2·ndim + 1, *spatial)``, finite: offsets z, y, x in voxels, natural logarithms of
        the sigmas z, y, x in voxels, and the logit of the seediness; of a 2D model without z.

        Raises
        ------
        UsageError
            If the model's method is not EmbedSeg (see `embedseg_large.methods`), and as for
            `predict_raw`.
        ModelError, RunError
            As for `predict_raw`.
        """
        if self.settings.method != EMBEDSEG:
            raise UsageError(
                f"models of the method {self.settings.method} have no "
                "embedding; use segment, or predict_raw"
            )
        return quantise(self.predict_raw(image, tta, quiet), self.pitch)

    def predict_tile(
        self,
        image: NDArray[np.float32],
        region: Box,  # noqa: ARG002  (an oracle answers by it)
        tta: bool | int | str = True,
        quiet: Quiet | None = None,
    ) -> NDArray[np.float16]:
        """Predict one tile for the engine: `predict_stored`, regardless of the tile's position."""
        return self.predict_stored(image, tta, quiet)

    def predict(self, image: NDArray[np.floating], tta: bool | int | str = True) -> Embedding:
        """Predict the embedding of an image, rounded as when a whole volume is segmented.

        Parameters
        ----------
        image
            As for `predict_raw`.
        tta
            Test-time augmentation, see `tta_mode`; default: the model's own, whereas `predict_raw`
            makes one pass.

        Returns
        -------
        Embedding
            float32 offsets and sigmas ``(ndim, *spatial)`` in voxels, z, y, x, and the seediness
            ``(*spatial)`` between 0 and 1.

        Raises
        ------
        UsageError, ModelError, RunError
            As for `predict_stored`.
        """
        return dequantise(self.predict_stored(image, tta))

    def _checked(self, image: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the image as float32 (channels, *spatial)."""
        channels = image[None] if image.ndim == self.ndim else image
        if channels.ndim != self.ndim + 1 or len(channels) != self.channels or not image.size:
            raise UsageError(
                f"the image has shape {image.shape}; the model needs {self.channels} channel(s) "
                f"of {self.ndim} spatial axes"
            )
        if not np.issubdtype(image.dtype, np.floating):
            raise UsageError(f"the image is {image.dtype}; normalise its intensities to float32")
        if not np.isfinite(image).all():
            raise UsageError("the image has NaN or infinite voxels; replace them")
        return np.ascontiguousarray(channels, dtype=np.float32)

    def _forward(self, images: Tensor, memory: Memory) -> Tensor:
        """Run one pass: (n, channels, *spatial) to float32 (n, 2·ndim + 1, *spatial)."""
        # float32 must mean float32 on a GPU too, and the same input must give the same bits
        with torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False):
            return self._network(images, memory)

    def _mean(
        self, image: Tensor, elements: Sequence[SignedPermutation], quiet: Quiet | None
    ) -> Tensor:
        """Average over a group; if memory runs out, with half the batch size, down to one."""
        fields = self.settings.channel_fields
        width = self._passes_at_once(image, len(elements))
        enough = None if quiet is None else quiet.holds
        while True:
            try:
                # a batch fills a GPU, concurrent passes fill a CPU
                if self._is_on_cpu:
                    each = self._lanes_for(width, enough)
                    return mean_raw(self._forward, image, fields, elements, each, enough=enough)
                return mean_raw(self._forward, image, fields, elements, map, width, enough)
            except (MemoryError, RuntimeError) as error:
                if not _is_lack_of_memory(error):
                    raise
                # outside this clause the failed passes no longer hold tensors
                reason = str(error).partition("\n")[0]
            if not self._is_on_cpu:
                free_unused(self.device)
            if width == 1:
                break
            width //= 2
        raise RunError(
            f"an image of shape {tuple(image.shape)} does not fit into the memory of "
            f"{self.device} ({reason}); use a smaller tile"
        )

    def _lanes_for(self, width: int, enough: Callable[[Tensor], bool] | None) -> Each:
        """Choose how passes run on the CPU; on shared lanes, the first one is awaited alone."""
        if self._shared is None:
            return partial(in_order, lanes=width)
        return partial(self._shared.in_order, most=width, at_first=None if enough is None else 1)

    @property
    def _is_on_cpu(self) -> bool:
        return torch.device(self.device).type == "cpu"

    def _passes_at_once(self, image: Tensor, most: int) -> int:
        """Return the initial number of passes per batch of an augmentation."""
        if self._is_on_cpu:
            first, more = BYTES_PER_VOXEL[self.settings.backbone]
            return lanes_that_fit(min(self.lanes, most), image.numel() // len(image), first, more)
        return passes_that_fit(self.device, image.numel() // len(image), most)


def _is_lack_of_memory(error: BaseException) -> bool:
    """Whether torch or numpy ran out of memory; on the CPU torch has no class for this error."""
    is_named = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return is_named or "DefaultCPUAllocator" in str(error)


def _pad(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pad the far end of each spatial axis of (channels, *spatial) to a multiple of 8.

    By reflection, or by repeating the last voxel if the axis is too thin to be reflected.
    """
    for axis, length in enumerate(image.shape[1:], start=1):
        widths = [(0, -length % STRIDE if d == axis else 0) for d in range(image.ndim)]
        image = np.pad(image, widths, mode="reflect" if widths[axis][1] < length else "edge")
    return image
