"""Plates for tests: the metadata of NGFF around images that tests give."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


def write_plate(
    path: Path,
    images: Mapping[tuple[str, str, str], NDArray[Any]],
    *,
    axes: str = "yx",
    ngff_version: Literal["0.4", "0.5", "0.6"] | str = "0.5",
) -> None:
    """Write a plate of small images, in the words of the NGFF specification.

    Parameters
    ----------
    path
        Folder to create.
    images
        By row, column and field.
    axes
        Letters of their axes, all spatial.
    ngff_version
        ``"0.4"``, ``"0.5"`` or ``"0.6"``.
    """
    rows = sorted({row for row, _, _ in images})
    columns = sorted({column for _, column, _ in images})
    wells = sorted({(row, column) for row, column, _ in images})
    about = {
        "name": path.name,
        "rows": [{"name": row} for row in rows],
        "columns": [{"name": column} for column in columns],
        "wells": [
            {
                "path": f"{row}/{column}",
                "rowIndex": rows.index(row),
                "columnIndex": columns.index(column),
            }
            for row, column in wells
        ],
    }
    _write_group(path, {"plate": about}, ngff_version)
    for row in rows:
        _write_group(path / row, {}, ngff_version)
    for row, column in wells:
        fields = sorted(field for r, c, field in images if (r, c) == (row, column))
        well = {"well": {"images": [{"path": field} for field in fields]}}
        _write_group(path / row / column, well, ngff_version)
    for (row, column, field), pixels in images.items():
        _write_image(path / row / column / field, pixels, axes, ngff_version)


def _write_image(path: Path, pixels: NDArray[Any], axes: str, version: str) -> None:
    import zarr

    scale: dict[str, Any] = {"type": "scale", "scale": [1.0] * pixels.ndim}
    space = [{"name": a, "type": "space", "unit": "micrometer"} for a in axes]
    system: dict[str, Any] = {"axes": space}
    if version == "0.6":
        system = {"coordinateSystems": [{"name": "physical", "axes": space}]}
        scale |= {"input": {"path": "0"}, "output": {"name": "physical"}}
    multiscale = {
        **system,
        "datasets": [{"path": "0", "coordinateTransformations": [scale]}],
        **({"version": version} if version == "0.4" else {}),
    }
    _write_group(path, {"multiscales": [multiscale]}, version)
    array = zarr.create_array(
        path / "0",
        shape=pixels.shape,
        dtype=pixels.dtype,
        chunks=tuple(min(n, 64) for n in pixels.shape),
        zarr_format=2 if version == "0.4" else 3,
    )
    array[...] = np.asarray(pixels)


def _write_group(path: Path, content: dict[str, Any], version: str) -> None:
    path.mkdir(parents=True, exist_ok=True)
    if version == "0.4":
        content = {
            n: v | {"version": version} if n in ("plate", "well") else v for n, v in content.items()
        }
        (path / ".zattrs").write_text(json.dumps(content))
        (path / ".zgroup").write_text(json.dumps({"zarr_format": 2}))
        return
    attributes = {"ome": {"version": version, **content}}
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    (path / "zarr.json").write_text(json.dumps(group))
