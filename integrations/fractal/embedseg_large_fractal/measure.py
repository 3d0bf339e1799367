"""Measure the labels of one image."""

from __future__ import annotations

from typing import Any

from fractal_task_tools.task_wrapper import run_fractal_task
from pydantic import validate_call

import embedseg_large as es


@validate_call
def measure(*, zarr_url: str, label_name: str = "nuclei") -> dict[str, Any]:
    """Measure every instance, and write a feature table of the labels into the store.

    Args:
        zarr_url: Path or URL of the OME-Zarr image.
        label_name: Name of the labels to measure.
    """
    es.measure(zarr_url, label_name, into_store=True)
    return {"image_list_updates": [{"zarr_url": zarr_url, "attributes": {}, "types": {}}]}


if __name__ == "__main__":
    run_fractal_task(task_function=measure)
