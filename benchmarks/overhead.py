"""Engine overhead: wall time of a serial run over the sum of its pure stage computations.

The pure computation of a stage is timed around the array functions alone: the network, the
clustering, the comparison, the relabelling. Reading, writing, planning and bookkeeping are
overhead.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import embedseg_large as es
from embedseg_large.clustering import cluster
from embedseg_large.data import copy_demo
from embedseg_large.segmentation.stages import check, predict
from embedseg_large.segmentation.stages import cluster as stage
from embedseg_large.volumes import intensity


class Clock:
    """Adds up the time inside wrapped functions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - began

        return timed


PURE = (
    (predict, "normalise_channels"),
    (cluster, "points_of_stored"),
    (cluster, "cluster_points"),
    (stage, "make_result"),
    (check, "compare"),
    (check, "tally"),
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tta", default="none")
    options = parser.parse_args()
    clock = Clock()
    for module, name in PURE:
        setattr(module, name, clock.around(getattr(module, name)))
    intensity.summarise = clock.around(intensity.summarise)
    model = es.load_model("nuclei-3d")
    model.predict_tile = clock.around(model.predict_tile)  # type: ignore[method-assign]

    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        store = copy_demo(Path(folder) / "embryo.ome.zarr")
        volume = es.open_volume(store.image)
        from embedseg_large.runs.progress import Progress
        from embedseg_large.runs.runner import SerialExecutor
        from embedseg_large.segmentation.options import SegmentOptions
        from embedseg_large.segmentation.request.prepare import prepare
        from embedseg_large.segmentation.segment import begin, run_request

        for repeat in range(options.repeats + 1):
            request = prepare(
                volume, model, "nuclei", SegmentOptions(overwrite=True, tta=options.tta)
            )
            clock.seconds = 0.0
            began = time.perf_counter()
            with begin(request) as run:
                run_request(request, run, SerialExecutor(model), Progress())
            wall = time.perf_counter() - began
            if repeat:  # the first run compiles
                ratios.append(wall / clock.seconds)
                print(f"wall {wall:.2f} s, pure {clock.seconds:.2f} s, ratio {ratios[-1]:.3f}")
    print(f"median ratio {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
