"""Labels as meshes: the surface of each instance, in physical units, as OBJ or STL.

The surface is that of marching cubes, half-way between voxels inside and outside. Coordinates are
x, y, z in µm (voxels where the voxel size is not known), 0 being the centre of the first voxel, and
facets wind so that normals point outwards. An OBJ names each instance (``o label_17``); an STL has
no names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from io import BufferedWriter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from embedseg_large.errors import UsageError
from embedseg_large.extras import extra
from embedseg_large.geometry import Box
from embedseg_large.measurement.measure import Subject, sum_regions
from embedseg_large.storage.disk import whole_file
from embedseg_large.volumes.volume import Volume

_FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
"""Facet of a binary STL."""


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


def boxes_of(
    labels: Volume, timepoint: int | None, keep: NDArray[np.uint64] | None = None
) -> dict[int, Box]:
    """Find where instances are.

    Parameters
    ----------
    labels
        3D, without a channel axis; read once.
    timepoint
        The timepoint; None if there is only one.
    keep
        Labels of the requested instances; None: all.

    Returns
    -------
    Bounding boxes in voxels by label, ascending.
    """
    subject = Subject(labels=labels, channels=(), voxel_size=labels.voxel_size)
    regions = sum_regions(subject, timepoint or 0)
    corners = (tuple(map(tuple, ends.tolist())) for ends in (regions.low, regions.high))
    found = zip(regions.ids.tolist(), *corners, strict=True)
    chosen = None if keep is None else set(keep.tolist())
    return {
        label: Box(low, high) for label, low, high in found if chosen is None or label in chosen
    }


def meshes_of(
    labels: Volume, timepoint: int | None, boxes: Mapping[int, Box], smooth: float = 0.0
) -> Iterator[Mesh]:
    """Find the surfaces of instances, one after the other.

    Parameters
    ----------
    labels
        3D, without a channel axis.
    timepoint
        The timepoint; None if there is only one.
    boxes
        The instances, as `boxes_of` finds them.
    smooth
        Standard deviation in voxels of a Gaussian that smooths the steps of voxels; 0: none.

    Yields
    ------
    In the order of the boxes.
    """
    for label, box in boxes.items():
        yield _mesh(labels, timepoint, label, box, smooth)


def _mesh(labels: Volume, timepoint: int | None, label: int, box: Box, smooth: float) -> Mesh:
    marching_cubes: Any = import_module("skimage.measure").marching_cubes
    margin = 1 + int(np.ceil(3 * smooth))
    mask = np.pad(labels.read(box, timepoint) == label, margin).astype(np.float32)
    if smooth:
        blurred = ndimage.gaussian_filter(mask, smooth)
        mask = blurred if blurred.max() > 0.5 else mask  # a stepped surface is better than none
    corners, faces, *_ = marching_cubes(mask, 0.5, gradient_direction="descent")
    steps = np.array(labels.voxel_size or (1.0, 1.0, 1.0))
    places = (corners + np.array(box.start) - margin) * steps
    # Facets wind outwards in x, y, z: scikit-image winds them inwards in the order of its axes.
    return Mesh(label, places[:, ::-1].astype(np.float64), faces.astype(np.int64))


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
            np.savetxt(file, mesh.vertices, "v %.6g %.6g %.6g")
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
    """
    count = facets = 0
    with whole_file(path) as begun, begun.open("wb") as file:
        _write_head(file, unit, 0)
        for mesh in meshes:
            file.write(_facets(mesh).tobytes())
            count, facets = count + 1, facets + len(mesh.faces)
        file.seek(0)
        _write_head(file, unit, facets)
    return count


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
