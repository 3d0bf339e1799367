"""Labels as meshes: the surface of each instance, in physical units, as OBJ or STL.

The surface is that of marching cubes, half-way between voxels inside and outside. Coordinates are
x, y, z in µm (voxels where the voxel size is not known), 0 being the centre of the first voxel, and
facets wind so that normals point outwards. An OBJ names each instance (``o label_17``); an STL has
no names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from io import BufferedWriter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from scipy import ndimage

from embedseg_large.errors import UsageError
from embedseg_large.exporting.boxes import Boxes
from embedseg_large.extras import extra
from embedseg_large.geometry import Box
from embedseg_large.storage.disk import whole_file
from embedseg_large.volumes.volume import Volume

_FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
"""Facet of a binary STL."""


_VERTEX = "v %.9g %.9g %.9g"
"""Line of an OBJ. Fewer digits would merge the vertices of a voxel far from the origin."""

_MOST_FACETS = 2**32 - 1
"""Number of facets of a binary STL, which counts them in 32 bits."""

_BYTES = 16
"""Memory per voxel of a bounding box: labels and their mask, then the mask as float32 and two more
of these for its smoothing."""


@dataclass(frozen=True, slots=True)
class Mesh:
    """The surface of an instance."""

    label: int
    vertices: NDArray[np.float64]
    """(n, 3) x, y, z in µm, or in voxels."""
    faces: NDArray[np.int64]
    """(m, 3) indices of vertices, from 0."""


def check_meshes(path: Path, labels: Volume) -> None:
    """Refuse meshes of planes, and meshes without the library that finds surfaces.

    Raises
    ------
    UsageError
        If the labels are 2D, or scikit-image is missing.
    """
    if labels.ndim != 3:
        raise UsageError(
            f"{labels.name} is 2D; meshes need 3D labels: write ROIs ({path.stem}.zip)"
        )
    with extra("meshes", f"{path}: a mesh"):
        import_module("skimage")


def check_boxes(labels: Volume, boxes: Boxes) -> None:
    """Refuse an instance whose surface cannot be found in the available memory.

    Raises
    ------
    UsageError
        If the largest box takes more memory than is available.
    """
    if not len(boxes):
        return
    (label, box), free = boxes.largest(), psutil.virtual_memory().available
    if box.size * _BYTES > free:
        raise UsageError(
            f"{labels.name}: the mesh of instance {label} takes about "
            f"{box.size * _BYTES / 2**30:,.1f} GiB, for its bounding box of "
            f"{' x '.join(f'{n:,}' for n in box.shape)} voxels, and {free / 2**30:,.1f} GiB are "
            "available; choose a coarser --level, or other --instances"
        )


def meshes_of(
    labels: Volume, timepoint: int | None, boxes: Boxes, smooth: float = 0.0
) -> Iterator[Mesh]:
    """Find the surfaces of instances, one after the other.

    A bounding box at a time is in memory, with `_BYTES` per voxel; see `check_boxes`.

    Parameters
    ----------
    labels
        3D, without a channel axis.
    timepoint
        The timepoint; None if there is only one.
    boxes
        The instances, as `embedseg_large.exporting.boxes.boxes_of` finds them.
    smooth
        Standard deviation in voxels of a Gaussian that smooths the steps of voxels; 0: none.

    Yields
    ------
    In the order of the boxes.
    """
    for label, box in boxes:
        yield _mesh(labels, timepoint, label, box, smooth)


def _mesh(labels: Volume, timepoint: int | None, label: int, box: Box, smooth: float) -> Mesh:
    marching_cubes: Any = import_module("skimage.measure").marching_cubes
    margin = 1 + int(np.ceil(3 * smooth))
    mask = np.pad(labels.read(box, timepoint) == label, margin).astype(np.float32)
    level = 0.5
    if smooth:
        count = int(mask.sum())
        mask = ndimage.gaussian_filter(mask, smooth)
        level = _level_of(mask, count)
    corners, faces, *_ = marching_cubes(mask, level, gradient_direction="descent")
    steps = np.array(labels.voxel_size or (1.0, 1.0, 1.0))
    places = np.array(labels.origin) + (corners + np.array(box.start) - margin) * steps
    # Facets wind outwards in x, y, z: scikit-image winds them inwards in the order of its axes.
    return Mesh(label, places[:, ::-1].astype(np.float64), faces.astype(np.int64))


def _level_of(values: NDArray[np.float32], count: int) -> float:
    """The value that `count` voxels exceed: at 0.5, smoothing would shrink small objects."""
    ordered = np.partition(values.ravel(), (values.size - count - 1, values.size - count))
    return float(ordered[values.size - count - 1 : values.size - count + 1].mean())


def write_obj(meshes: Iterator[Mesh], path: Path, unit: str) -> int:
    """Write meshes as one OBJ; one mesh at a time is in memory.

    Returns
    -------
    Number of instances.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    count, first = 0, 1
    with whole_file(path) as begun, begun.open("w", encoding="ascii", newline="\n") as file:
        file.write(f"# one object per instance; x y z in {unit}\n")
        for mesh in meshes:
            file.write(f"o label_{mesh.label}\n")
            np.savetxt(file, mesh.vertices, _VERTEX)
            np.savetxt(file, mesh.faces + first, "f %d %d %d")
            count, first = count + 1, first + len(mesh.vertices)
    return count


def write_stl(meshes: Iterator[Mesh], path: Path, unit: str) -> int:
    """Write meshes as one binary STL; one mesh at a time is in memory.

    Returns
    -------
    Number of instances.

    Raises
    ------
    OutputError
        If it cannot be written.
    UsageError
        If there are more facets than an STL can count.
    """
    count = facets = 0
    with whole_file(path) as begun, begun.open("wb") as file:
        _write_head(file, unit, 0)
        for mesh in meshes:
            facets += len(mesh.faces)
            _check_facets(path, facets)
            file.write(_facets(mesh).tobytes())
            count += 1
        file.seek(0)
        _write_head(file, unit, facets)
    return count


def _check_facets(path: Path, facets: int) -> None:
    if facets > _MOST_FACETS:
        raise UsageError(
            f"{path}: an STL holds at most {_MOST_FACETS:,} facets; write one file per instance, "
            "with {label} in the name, or .obj, or some of the instances with --instances"
        )


def _write_head(file: BufferedWriter, unit: str, facets: int) -> None:
    file.write(f"instances of labels, in {unit}".encode("ascii").ljust(80))
    file.write(np.uint32(facets).astype("<u4").tobytes())


def _facets(mesh: Mesh) -> NDArray[Any]:
    found = np.zeros(len(mesh.faces), _FACET)
    found["corners"] = mesh.vertices[mesh.faces]
    first, second, third = (found["corners"][:, i] for i in range(3))
    normals = np.cross(second - first, third - first)
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    found["normal"] = np.divide(normals, lengths, out=np.zeros_like(normals), where=lengths > 0)
    return found
