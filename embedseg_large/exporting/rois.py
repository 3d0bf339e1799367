"""Labels as ImageJ ROIs: one for each instance and plane, for Fiji's ROI Manager.

A ROI holds exactly the pixels of the instance: its outline runs half-way between pixels inside and
outside, and ImageJ counts a pixel whose centre it encloses. An instance of several pieces, or with
holes, is one composite ROI.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from embedseg_large.exporting.label_tiff import only, planes
from embedseg_large.extras import extra
from embedseg_large.storage.disk import whole_file
from embedseg_large.volumes.volume import Volume

_MOVE, _LINE, _CLOSE = 0, 1, 4
"""Steps of the outline of a composite ROI."""

Contour = NDArray[np.float64]
"""(n, 2) x and y in pixels, from the upper left corner of the image; closed, no point twice."""


def check_rois(path: Path) -> None:
    """Refuse ROIs if the libraries that write them are missing.

    Raises
    ------
    UsageError
        If roifile or scikit-image is missing.
    """
    for name in ("roifile", "skimage"):
        with extra("rois", f"{path}: a list of ROIs"):
            import_module(name)


def write_rois(
    labels: Volume,
    timepoints: Sequence[int | None],
    path: Path,
    keep: NDArray[np.uint64] | None = None,
) -> int:
    """Write a file that ImageJ's ROI Manager opens.

    A whole plane, of any size, is in memory, since an outline may run anywhere in it.

    Parameters
    ----------
    labels
        Without a channel axis.
    timepoints
        Timepoints to write; just None if there is no time axis.
    path
        ``.zip`` to write.
    keep
        Labels of the instances to write; None: all.

    Returns
    -------
    Number of ROIs.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    count = 0
    with whole_file(path) as begun, ZipFile(begun, "w", ZIP_DEFLATED) as file:
        for timepoint in timepoints:
            for z, plane in planes(labels, timepoint):
                shown = plane if keep is None else only(plane, keep)
                place = (z if labels.ndim == 3 else None, timepoint)
                for label, contours in contours_of(shown):
                    roi = roi_of(label, contours, *place)
                    file.writestr(f"{roi.name}.roi", roi.tobytes())
                    count += 1
    return count


def contours_of(plane: NDArray[Any]) -> Iterator[tuple[int, list[Contour]]]:
    """Yield the outlines of every instance of a plane, and of its holes.

    Parameters
    ----------
    plane
        Integers (y, x), 0 for background.
    """
    find_contours: Any = import_module("skimage.measure").find_contours
    ids, numbers = np.unique(plane, return_inverse=True)
    numbers = numbers.reshape(plane.shape) + (ids[:1] != 0).sum()
    for label, box in zip(ids[ids != 0].tolist(), ndimage.find_objects(numbers), strict=True):
        mask = np.pad(plane[box] == label, 1).astype(np.float32)
        corner = np.array([box[1].start, box[0].start]) - 0.5  # of a mask that is one pixel wider
        found = find_contours(mask, 0.5, fully_connected="low")
        yield label, [contour[:-1, ::-1] + corner for contour in found]


def roi_of(label: int, contours: Sequence[Contour], z: int | None, t: int | None) -> Any:
    """Create the ROI of an instance in a plane.

    Parameters
    ----------
    label
        The instance.
    contours
        Its outlines, and those of its holes.
    z, t
        Plane and timepoint, from 0; None if the image has no such axis.

    Returns
    -------
    roifile.ImagejRoi
    """
    from roifile import ROI_TYPE, ImagejRoi

    name = (
        f"{label:05d}" + ("" if z is None else f"-z{z:04d}") + ("" if t is None else f"-t{t:04d}")
    )
    where = {"position": z} if t is None else {"c": 0, "z": z or 0, "t": t}
    points = max(contours, key=len) if len(contours) == 1 else np.concatenate(contours)
    roi = ImagejRoi.frompoints(points.astype(np.float32), name=name, **where)
    if len(contours) > 1:
        roi.roitype = ROI_TYPE.RECT
        roi.subpixel_coordinates, roi.integer_coordinates = None, None
        roi.n_coordinates = 0
        roi.multi_coordinates = np.concatenate([_steps(contour) for contour in contours])
        roi.shape_roi_size = roi.multi_coordinates.size
    return roi


def _steps(contour: Contour) -> NDArray[np.float32]:
    """An outline as the steps of a pen."""
    kinds = np.full((len(contour), 1), _LINE, np.float32)
    kinds[0] = _MOVE
    steps = np.hstack([kinds, contour.astype(np.float32)]).ravel()
    return np.append(steps, np.float32(_CLOSE))
