"""Coordinate systems of OME-Zarr 0.6 (RFC-5), in terms of the axes and scales of older versions.

::

    array "0" ──scale──► intrinsic ──rotation──► world       a 0.6 multiscale
    array "1" ──scale──►     │
                             └── its axes and units are those of the arrays

The transformation of each dataset leads from its array to one system, the *intrinsic* one: a scale,
perhaps followed by a translation. `flattened` handles both. Transformations that lead on from there
(`CoordinateFrame`) do not change how voxels are arranged; labels repeat them, so that viewers place
labels where they place the image.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from embedseg_large.errors import MetadataError

logger = logging.getLogger(__name__)

Document = dict[str, Any]

VERSION = "0.6"
_FAMILY = re.compile(r"0\.6(\.dev\d+|rc\d+)?")
_SUPPORTED = "identity, scale, translation, or a sequence of these"


def has_coordinate_systems(version: str) -> bool:
    """Whether an NGFF version is 0.6 or one of its pre-releases."""
    return _FAMILY.fullmatch(version) is not None


@dataclass(frozen=True, kw_only=True)
class CoordinateFrame:
    """The systems around an image: its own one, and those that transformations lead to."""

    intrinsic: str = "intrinsic"
    """Name of the system whose axes are those of the arrays."""
    systems: tuple[Document, ...] = ()
    """The other coordinate systems, as stored."""
    transformations: tuple[Document, ...] = ()
    """Transformations from the intrinsic system to others, as stored."""


def flattened(multiscale: Mapping[str, Any], where: str) -> Document:
    """Convert a multiscale of 0.6 to the form of 0.5.

    Parameters
    ----------
    multiscale
        One element of ``multiscales``, as stored.
    where
        Path or URL of the image, for error messages.

    Returns
    -------
    dict
        With ``axes``, and datasets of one scale and at most one translation; not validated.

    Raises
    ------
    MetadataError
        If a dataset is not a scaled and shifted part of one coordinate system.
    """
    systems, datasets = _systems(multiscale, where), _datasets(multiscale, where)
    name = _intrinsic(multiscale, systems, where)
    axes, beyond = systems[name], (None, None)
    if _is_of_indices(axes):  # indices have no size: look for the system they are scaled to
        name, beyond = _physical(multiscale, name, systems, where)
        axes = systems[name]
    return {
        **{key: multiscale[key] for key in ("name", "type", "metadata") if key in multiscale},
        "axes": [_untyped(axis) for axis in axes],
        "datasets": [_flat_dataset(d, len(axes), beyond, where) for d in datasets],
    }


def frame_of(multiscale: Mapping[str, Any], kept: Sequence[int], where: str) -> CoordinateFrame:
    """Find what labels of an image repeat of its coordinate systems.

    Parameters
    ----------
    multiscale
        The image's element of ``multiscales``, as stored.
    kept
        Indices of the axes that the labels have.
    where
        Path or URL of the image, for a warning about what labels cannot repeat.
    """
    systems = _systems(multiscale, where)
    name = _intrinsic(multiscale, systems, where)
    if _is_of_indices(systems[name]):
        return CoordinateFrame(intrinsic=_physical(multiscale, name, systems, where)[0])
    stored = {s["name"]: s for s in multiscale["coordinateSystems"]}
    found: list[tuple[Document, Document]] = []
    for transform in multiscale.get("coordinateTransformations") or ():
        target = stored.get(_reference(transform, "output") or "")
        part = _over(transform, kept, len(systems[name]))
        if target is None or part is None or len(target["axes"]) != len(systems[name]):
            kind = transform.get("type")
            logger.warning("%s: labels do not repeat its transformation of type %s", where, kind)
            continue
        axes = [target["axes"][i] for i in kept]
        found.append(({**target, "axes": axes}, part))
    return CoordinateFrame(
        intrinsic=name,
        systems=tuple({s["name"]: s for s, _ in found}.values()),
        transformations=tuple(t for _, t in found),
    )


def with_systems(multiscale: Mapping[str, Any], frame: CoordinateFrame) -> Document:
    """Convert a valid multiscale of 0.5 to the form of 0.6.

    Parameters
    ----------
    multiscale
        With ``axes``, and datasets of one scale and at most one translation.
    frame
        Names of its systems.
    """
    new = {key: value for key, value in multiscale.items() if key != "axes"}
    own = {"name": frame.intrinsic, "axes": list(multiscale["axes"])}
    new["coordinateSystems"] = [own, *frame.systems]
    new["datasets"] = [
        {"path": d["path"], "coordinateTransformations": [_placed(d, frame.intrinsic)]}
        for d in multiscale["datasets"]
    ]
    if frame.transformations:
        new["coordinateTransformations"] = list(frame.transformations)
    return new


def _placed(dataset: Mapping[str, Any], system: str) -> Document:
    """One transformation from an array to its system."""
    steps = list(dataset["coordinateTransformations"])
    one = steps[0] if len(steps) == 1 else {"type": "sequence", "transformations": steps}
    return {**one, "input": {"path": dataset["path"]}, "output": {"name": system}}


def _systems(multiscale: Mapping[str, Any], where: str) -> dict[str, list[Any]]:
    """Axes of each coordinate system, by its name."""
    found: dict[str, list[Any]] = {}
    for system in _list(multiscale, "coordinateSystems", where):
        match system:
            case {"name": str(name), "axes": [*axes]} if axes and name not in found:
                found[name] = axes
            case _:
                raise MetadataError(
                    f"{where}: each of its coordinateSystems needs a name of its own and axes"
                )
    return found


def _datasets(multiscale: Mapping[str, Any], where: str) -> list[Document]:
    found = _list(multiscale, "datasets", where)
    if not all(isinstance(d, dict) and isinstance(d.get("path"), str) for d in found):
        raise MetadataError(f"{where}: each of its datasets needs a path")
    return found


def _list(document: Mapping[str, Any], key: str, where: str) -> list[Any]:
    found = document.get(key)
    if not isinstance(found, list) or not found:
        raise MetadataError(f"{where}: its multiscale has no {key}; OME-Zarr 0.6 requires them")
    return found


def _intrinsic(multiscale: Mapping[str, Any], systems: Mapping[str, Any], where: str) -> str:
    """Name of the system to which the arrays are transformed."""
    names = {
        _reference(transform, "output")
        for dataset in _datasets(multiscale, where)
        for transform in _steps(dataset, where)[-1:]
    }
    if len(names) != 1:
        raise MetadataError(f"{where}: its datasets lead to {len(names)} coordinate systems, not 1")
    name = names.pop()
    if name not in systems:
        raise MetadataError(
            f"{where}: its datasets lead to the coordinate system {name!r}, which is not one of "
            f"{sorted(systems)}"
        )
    return str(name)


def _reference(transform: Any, end: str) -> str | None:
    """Name of the system at an end; pre-releases wrote the name alone."""
    found = transform.get(end) if isinstance(transform, dict) else None
    if isinstance(found, dict):
        found = None if found.get("path") else found.get("name")
    return found if isinstance(found, str) else None


def _is_of_indices(axes: Sequence[Any]) -> bool:
    """Whether a system counts voxels: its axes are of the type ``array``."""
    return all(isinstance(axis, dict) and axis.get("type") == "array" for axis in axes)


_Diagonal = tuple[list[float], list[float]]


def _physical(
    multiscale: Mapping[str, Any], indices: str, systems: Mapping[str, Any], where: str
) -> tuple[str, tuple[Any, Any]]:
    """The first system that indices are scaled to, and how; the indices' own if there is none."""
    for transform in multiscale.get("coordinateTransformations") or ():
        name = _reference(transform, "output") or ""
        leads = _reference(transform, "input") == indices and name in systems
        if leads and len(systems[name]) == len(systems[indices]):
            return name, _diagonal([transform], len(systems[indices]), where)
    return indices, (None, None)


def _untyped(axis: Any) -> Any:
    """An axis in the terms of 0.5, where the type ``array`` does not exist."""
    if not isinstance(axis, dict):
        return axis
    kept = ("name", "unit") if axis.get("type") == "array" else ("name", "type", "unit")
    return {key: axis[key] for key in kept if key in axis}


def _steps(dataset: Mapping[str, Any], where: str) -> list[Any]:
    return _list(dataset, "coordinateTransformations", where)


def _flat_dataset(dataset: Document, n: int, beyond: tuple[Any, Any], where: str) -> Document:
    scale, shift = _diagonal(_steps(dataset, where), n, f"{where}: {dataset['path']}")
    factor, offset = beyond
    if factor is not None:
        scale, shift = _then((scale, shift), (factor, offset))
    steps: list[Document] = [{"type": "scale", "scale": scale}]
    if any(shift):
        steps.append({"type": "translation", "translation": shift})
    return {"path": dataset["path"], "coordinateTransformations": steps}


def _then(first: _Diagonal, second: _Diagonal) -> _Diagonal:
    """Scale and translation of one transformation after another."""
    scale = [a * b for a, b in zip(first[0], second[0], strict=True)]
    moved = zip(first[1], second[0], second[1], strict=True)
    return scale, [shift * factor + offset for shift, factor, offset in moved]


def _diagonal(transforms: Sequence[Any], n: int, where: str) -> _Diagonal:
    """Scale and translation of transformations that follow each other."""
    total: _Diagonal = ([1.0] * n, [0.0] * n)
    for transform in transforms:
        total = _then(total, _step(transform, n, where))
    return total


def _step(transform: Any, n: int, where: str) -> _Diagonal:
    match transform:
        case {"type": "identity"}:
            return [1.0] * n, [0.0] * n
        case {"type": "scale", "scale": [*values]}:
            return _numbers(values, n, where), [0.0] * n
        case {"type": "translation", "translation": [*values]}:
            return [1.0] * n, _numbers(values, n, where)
        case {"type": "sequence", "transformations": [*inner]}:
            return _diagonal(inner, n, where)
        case {"type": str(kind)}:
            raise MetadataError(
                f"{where}: its voxels have a transformation of type {kind[:40]!r}; supported: "
                f"{_SUPPORTED}. Resample the image, or open the array and pass --axes"
            )
    raise MetadataError(f"{where}: a coordinate transformation has no type")


def _numbers(values: Sequence[Any], n: int, where: str) -> list[float]:
    if len(values) != n or not all(type(v) in (int, float) for v in values):
        raise MetadataError(f"{where}: a scale or translation is not {n} numbers, one per axis")
    return [float(v) for v in values]


def _over(transform: Any, kept: Sequence[int], n: int) -> Document | None:
    """A transformation restricted to some of n axes; None if it mixes them with others.

    Parameters that are stored as arrays beside the image are not copied.
    """
    if not isinstance(transform, dict) or _uses_arrays(transform):
        return None
    if len(kept) == n:
        return dict(transform)
    match transform:
        case {"type": "identity"}:
            return dict(transform)
        case {"type": "scale" | "translation" as kind} if len(transform.get(kind, ())) == n:
            return {**transform, kind: [transform[kind][i] for i in kept]}
        case {"type": "rotation" | "affine" as kind, **_rest}:
            matrix = _submatrix(transform.get(kind), kept, n)
            return None if matrix is None else {**transform, kind: matrix}
        case {"type": "sequence", "transformations": [*inner]}:
            parts = [_over(step, kept, n) for step in inner]
            return None if None in parts else {**transform, "transformations": parts}
    return None


def _uses_arrays(transform: Any) -> bool:
    """Whether parameters are stored in an array, or a system in another image."""
    if isinstance(transform, dict):
        return "path" in transform or any(map(_uses_arrays, transform.values()))
    return isinstance(transform, list) and any(map(_uses_arrays, transform))


def _submatrix(matrix: Any, kept: Sequence[int], n: int) -> list[list[float]] | None:
    """Rows and columns of some axes; None if another axis takes part."""
    if not isinstance(matrix, list) or len(matrix) != n:
        return None
    others = [i for i in range(n) if i not in kept]
    columns = [*kept, *range(n, len(matrix[0]))]  # the last column of an affine is the shift
    mixed = any(matrix[i][j] or matrix[j][i] for i in others for j in kept)
    return None if mixed else [[matrix[i][j] for j in columns] for i in kept]
