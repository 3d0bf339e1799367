"""Segment nuclei or cells of one image."""

from __future__ import annotations

from typing import Any

from fractal_task_tools.task_wrapper import run_fractal_task
from pydantic import validate_call

import embedseg_large as es


@validate_call
def segment(
    *,
    zarr_url: str,
    label_name: str = "nuclei",
    model: str | None = None,
    channel: str = "0",
    level: int = 0,
    object_diameter: str | None = None,
    min_object_size: int | None = None,
    tta: str = "none",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Segment nuclei or cells of one image, and write the labels into its store.

    Args:
        zarr_url: Path or URL of the OME-Zarr image.
        label_name: Name of the labels to write.
        model: Bundled model (nuclei-2d, nuclei-3d), the path of a model, or classical. Default:
            nuclei-3d or nuclei-2d, by the axes of the image.
        channel: Channel to segment, by its number or name.
        level: Resolution level to segment; 0 is the finest.
        object_diameter: Typical diameter of the objects: 20 (pixels) or 12um. Required by the
            classical method; otherwise the scale of the model is adapted to it.
        min_object_size: Minimum number of voxels of an object. Default: the model's.
        tta: Test-time augmentation: none, 4, 8, 16 or 48.
        overwrite: Whether to replace existing labels of that name.
    """
    options: dict[str, Any] = {
        "channel": int(channel) if channel.isdecimal() else channel,
        "level": level,
        "overwrite": overwrite,
    }
    if min_object_size is not None:
        options["min_object_size"] = min_object_size
    if object_diameter is not None:
        options["object_diameter"] = object_diameter
    if model != "classical":
        options["tta"] = tta
    es.segment(zarr_url, model, label_name, **options)
    return {"image_list_updates": [{"zarr_url": zarr_url, "attributes": {}, "types": {}}]}


if __name__ == "__main__":
    run_fractal_task(task_function=segment)
