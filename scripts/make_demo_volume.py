"""Make the demo volume that is bundled with the package.

Source: image 6001240 of IDR study idr0062 (Blin et al. 2019, CC BY 4.0): its OME-Zarr 0.1 store,
with channels LaminB1 and DAPI, and the OME-Zarr 0.5 store of its manual nucleus labels. Both are
2 x 236 x 275 x 271 voxels of 0.5002 x 0.3604 x 0.3604 µm.

1. Take DAPI, and the labels of the same grid.
2. Leave out the last plane, row or column of an axis of odd length.
3. Halve every axis: the image by means of 2 x 2 x 2 voxels, rounded half up; the labels by the
   first voxel of each.
4. Write both as deflated OME-TIFF with the doubled voxel size.

Usage: python scripts/make_demo_volume.py IMAGE.zarr LABELS.zarr [OUT]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

DAPI = 1
OUT = Path(__file__).parents[1] / "embedseg_large" / "data"


def main() -> None:
    """Read the stores named on the command line and write the pair."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("image", type=Path, help="the OME-Zarr 0.1 store of the image")
    parser.add_argument("labels", type=Path, help="the OME-Zarr 0.5 store of its labels")
    parser.add_argument("out", type=Path, nargs="?", default=OUT, help="folder to write to")
    paths = parser.parse_args()

    label_group = paths.labels / "labels" / "0"
    image = np.asarray(zarr.open_array(paths.image / "0", mode="r")[0, DAPI])
    labels = np.asarray(zarr.open_array(label_group / "0", mode="r")[0])
    voxel_size = [2 * size for size in _scale(label_group)[-3:]]

    paths.out.mkdir(exist_ok=True)
    write(paths.out / "blastocyst.ome.tif", halved_image(image), voxel_size)
    write(paths.out / "blastocyst_truth.ome.tif", halved_labels(labels), voxel_size)


def halved_image(image: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Return the means of 2 x 2 x 2 voxels, rounded half up."""
    z, y, x = (n // 2 for n in image.shape)
    cells = image[: 2 * z, : 2 * y, : 2 * x].reshape(z, 2, y, 2, x, 2)
    sums = cells.sum(axis=(1, 3, 5), dtype=np.uint32)
    means: NDArray[np.uint16] = ((sums + 4) // 8).astype(np.uint16)
    return means


def halved_labels(labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the first of every 2 x 2 x 2 voxels."""
    z, y, x = (n // 2 for n in labels.shape)
    return labels[::2, ::2, ::2][:z, :y, :x].astype(np.uint8)


def write(path: Path, array: NDArray[Any], voxel_size: list[float]) -> None:
    """Write an OME-TIFF, small and readable everywhere, and the same bytes every time."""
    name = path.name.removesuffix(".ome.tif")
    sizes = {
        key: value
        for axis, size in zip("ZYX", voxel_size, strict=True)
        for key, value in (
            (f"PhysicalSize{axis}", round(size, 6)),
            (f"PhysicalSize{axis}Unit", "µm"),
        )
    }
    tifffile.imwrite(
        path,
        array,
        ome=True,
        metadata={"axes": "ZYX", "Name": name, "UUID": str(uuid5(NAMESPACE_URL, name)), **sizes},
        compression="zlib",
        compressionargs={"level": 9},
        predictor=array.dtype.itemsize > 1,  # for labels it only gets in the way
    )


def _scale(group: Path) -> list[float]:
    """Return the voxel size of the finest level of a group."""
    ome: Any = zarr.open_group(group, mode="r").attrs["ome"]
    finest = ome["multiscales"][0]["datasets"][0]
    scale: list[float] = finest["coordinateTransformations"][0]["scale"]
    return scale


if __name__ == "__main__":
    main()
