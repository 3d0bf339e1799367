"""The tasks: ``fractal-manifest create --package embedseg_large_fractal`` writes the manifest."""

from fractal_task_tools.task_models import ParallelTask

AUTHORS = "The embedseg_large developers"
DOCS_LINK = "https://github.com/embedseg-large/embedseg-large"
INPUT_MODELS: list[tuple[str, str, str]] = []

TASK_LIST = [
    ParallelTask(
        name="Segment nuclei or cells (embedseg-large)",
        executable="segment.py",
        meta={"cpus_per_task": 4, "mem": 16000},
        category="Segmentation",
        tags=["Instance segmentation", "3D", "EmbedSeg"],
    ),
    ParallelTask(
        name="Measure labels (embedseg-large)",
        executable="measure.py",
        meta={"cpus_per_task": 1, "mem": 8000},
        category="Measurement",
        tags=["Feature table"],
    ),
]
