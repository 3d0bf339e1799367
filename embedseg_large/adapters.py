"""Segmenters of other programs for this engine: Cellpose, StarDist, Mask R-CNN, Segment Anything.

Each function returns a `TileSegmenter`, whose program is imported and loaded once per worker, when
the run begins. Halo and tiles, workers, resuming and the seam report are those of `segment`. The
intensities that a program gets are normalised by percentiles of the whole volume, never of a tile.

None of these programs is local: what they find depends on all that they see. Where neighbouring
tiles differ, objects are matched by overlap, and the seam report counts them.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.segmentation.segmenters.tile_segmenter import TileSegmenter

Function = Callable[[NDArray[np.float32]], NDArray[Any]]

_HALO = 1.5
"""In diameters of an object."""


def cellpose(
    diameter: float, *, model: str = "cpsam_v2", ndim: int = 3, **more: Any
) -> TileSegmenter:
    """Cellpose 4, with flows along all axes in 3D.

    Parameters
    ----------
    diameter
        Of the objects, in voxels.
    model
        Name of a model that Cellpose downloads, or path of one.
    ndim
        2 or 3.
    **more
        Other fields of `TileSegmenter`.

    Raises
    ------
    UsageError
        Cellpose is not installed, or a field cannot be used.
    """
    _check("cellpose", "pip install cellpose")
    parameters = {"diameter": diameter, "model": model, "is_3d": ndim == 3}
    return _segmenter("cellpose", load_cellpose, parameters, _HALO * diameter, ndim, more)


def load_cellpose(device: str, diameter: float, model: str, is_3d: bool) -> Function:
    """Load Cellpose on a worker."""
    network = import_module("cellpose.models").CellposeModel(
        gpu=device.startswith("cuda"), pretrained_model=model
    )
    axes = {"do_3D": True, "z_axis": 0} if is_3d else {}

    def labels_of(image: NDArray[np.float32]) -> NDArray[Any]:
        # the largest object would otherwise be a fraction of the tile, the smallest one also be
        # looked for among those that the tile cuts
        masks, *_ = network.eval(
            image, diameter=diameter, normalize=False, min_size=-1, max_size_fraction=1.0, **axes
        )
        return np.asarray(masks)

    return labels_of


def stardist(model: str, extent: int, *, ndim: int = 3, **more: Any) -> TileSegmenter:
    """StarDist, by the name of a pretrained model.

    Parameters
    ----------
    model
        ``2D_versatile_fluo``, ``3D_demo``, ...
    extent
        Of the largest object, in voxels.
    ndim
        2 or 3.
    **more
        Other fields of `TileSegmenter`.

    Raises
    ------
    UsageError
        StarDist is not installed, or a field cannot be used.
    """
    _check("stardist", "pip install stardist tensorflow")
    return _segmenter("stardist", load_stardist, {"model": model, "ndim": ndim}, extent, ndim, more)


def load_stardist(device: str, model: str, ndim: int) -> Function:  # noqa: ARG001
    """Load StarDist on a worker; TensorFlow finds the GPU itself."""
    network = getattr(import_module("stardist.models"), f"StarDist{ndim}D").from_pretrained(model)
    axes = "ZYX"[-ndim:]

    def labels_of(image: NDArray[np.float32]) -> NDArray[Any]:
        # without `normalizer`, which would take the percentiles of the tile
        labels, _ = network.predict_instances(image, axes=axes, show_tile_progress=False)
        return np.asarray(labels)

    return labels_of


def mask_rcnn(
    weights: str, extent: int, *, score: float = 0.5, most: int = 1000, **more: Any
) -> TileSegmenter:
    """Mask R-CNN of torchvision with one class of objects, for 2D images.

    Parameters
    ----------
    weights
        File of a state dict of ``maskrcnn_resnet50_fpn(num_classes=2)``; workers must see it.
    extent
        Of the largest object, in pixels.
    score
        Objects score at least this; those with a higher score cover others.
    most
        Maximum number of objects of a tile.
    **more
        Other fields of `TileSegmenter`.

    Raises
    ------
    UsageError
        torchvision is not installed, or a field cannot be used.
    """
    _check("torchvision", "pip install torchvision")
    parameters = {"weights": weights, "score": score, "most": most}
    return _segmenter("mask-rcnn", load_mask_rcnn, parameters, extent, 2, more)


def load_mask_rcnn(device: str, weights: str, score: float, most: int) -> Function:
    """Load Mask R-CNN on a worker."""
    torch = import_module("torch")
    network = import_module("torchvision.models.detection").maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=2, box_detections_per_img=most
    )
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    network.to(device).eval()

    def labels_of(image: NDArray[np.float32]) -> NDArray[Any]:
        # torchvision resizes what it sees to a size of its own: every tile to another scale
        network.transform.min_size, network.transform.max_size = (
            (min(image.shape),),
            max(image.shape),
        )
        with torch.no_grad():
            grey = torch.from_numpy(np.clip(image, 0, 1)).to(device)
            (found,) = network([grey.expand(3, *image.shape)])
        return painted(
            found["masks"][:, 0].cpu().numpy() > 0.5, found["scores"].cpu().numpy(), score
        )

    return labels_of


def painted(
    masks: NDArray[np.bool_], scores: NDArray[np.floating], least: float
) -> NDArray[np.uint32]:
    """Paint masks that may overlap, (n, *shape), into labels: the best score on top."""
    labels = np.zeros(masks.shape[1:], np.uint32)
    order = np.argsort(scores, kind="stable")
    for number, at in enumerate(order[scores[order] >= least].tolist(), start=1):
        labels[masks[at]] = number
    return labels


def micro_sam(extent: int, *, model: str = "vit_b_lm", **more: Any) -> TileSegmenter:
    """Segment Anything for microscopy, segmenting everything in 2D images.

    Parameters
    ----------
    extent
        Of the largest object, in pixels.
    model
        Name of a model that micro-sam downloads.
    **more
        Other fields of `TileSegmenter`.

    Raises
    ------
    UsageError
        micro-sam is not installed, or a field cannot be used.
    """
    _check("micro_sam", "pip install micro-sam")
    return _segmenter("micro-sam", load_micro_sam, {"model": model}, extent, 2, more)


def load_micro_sam(device: str, model: str) -> Function:
    """Load micro-sam on a worker."""
    program = import_module("micro_sam.automatic_segmentation")
    predictor, segmenter = program.get_predictor_and_segmenter(model_type=model, device=device)

    def labels_of(image: NDArray[np.float32]) -> NDArray[Any]:
        grey = (255 * np.clip(image, 0, 1)).astype(np.uint8)
        labels = program.automatic_instance_segmentation(
            predictor=predictor, segmenter=segmenter, input_path=grey, ndim=2
        )
        return np.asarray(labels)

    return labels_of


def _check(package: str, how: str) -> None:
    """Refuse a program that is not installed, without importing it."""
    if find_spec(package) is None:
        raise UsageError(f"the adapter needs {package}, which is not installed: {how}")


def _segmenter(
    name: str,
    load: Callable[..., Function],
    parameters: dict[str, Any],
    halo: float,
    ndim: int,
    more: dict[str, Any],
) -> TileSegmenter:
    usual: dict[str, Any] = {"name": name, "halo": (ceil(halo),) * ndim, "min_object_size": 15}
    return TileSegmenter(load=load, parameters=parameters, ndim=ndim, **(usual | more))
