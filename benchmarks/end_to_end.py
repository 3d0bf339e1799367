"""What is left to gain from overlap: a whole run against its slowest stage alone; and imports.

::

    .venv/bin/python benchmarks/end_to_end.py [--size 192] [--tta 16] [--repeats 3] [--json FILE]

The bundled embryo, mirrored to a cube, is segmented with the bundled model, in this process and by
two workers. *Slowest stage alone* is the time of PREDICT's tasks, divided by the number of workers:
what a run takes if all else costs nothing. Seconds of workers are counted from their first task on,
so that starting processes, which takes the same for a volume of any size, does not count.

Imports are timed in processes of their own: medians by the clock.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import embedseg_large as es
from embedseg_large.conversion.plan import write_image
from embedseg_large.data import load_demo

IMPORTS = {
    "import embedseg_large": ["-c", "import embedseg_large"],
    "embedseg-large --help": ["-m", "embedseg_large", "--help"],
    "python -c pass": ["-c", "pass"],
}
"""Targets: 0.3 and 0.5 s. The last is what Python itself takes."""
HEAVY = ("torch", "numba", "zarr", "dask", "distributed", "scipy", "matplotlib")


def median_seconds(arguments: list[str], repeats: int) -> float:
    """Median time of a Python process, after one that fills caches."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def heavy_imports() -> list[str]:
    """Libraries that the help imports though it needs none."""
    code = f"import sys, embedseg_large.cli.app; print([m for m in {HEAVY} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return list(json.loads(run.stdout.replace("'", '"')))


def run(folder: Path, workers: int | None, repeats: int, **options: Any) -> dict[str, Any]:
    """Time whole runs, and find the slowest stage of each."""
    rows = []
    for _ in range(repeats):
        result = es.segment(
            folder / "volume.ome.zarr", "nuclei-3d", workers=workers, overwrite=True, **options
        )
        clocks = result.summary["stages"]
        alone = {name: clock["seconds"] / (workers or 1) for name, clock in clocks.items()}
        slowest = max(alone, key=alone.__getitem__)
        rows.append((result.summary["seconds"], alone[slowest], slowest))
    rows.sort(key=lambda row: row[0] / row[1])
    seconds, alone_seconds, slowest = rows[len(rows) // 2]
    return {
        "workers": workers or 0,
        "seconds": seconds,
        "slowest": slowest,
        "slowest_alone": alone_seconds,
        "ratio": seconds / alone_seconds,
        "ratios": [a / b for a, b, _ in rows],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--tta", default="16")
    parser.add_argument("--tile", type=int, default=64, help="edge: enough tiles for two workers")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    imports = {name: median_seconds(args, 5) for name, args in IMPORTS.items()}
    for name, seconds in imports.items():
        print(f"{seconds:.3f} s  {name}")
    print(f"heavy libraries that the help imports: {', '.join(heavy_imports()) or 'none'}")
    image = load_demo().image
    image = np.pad(image, [(0, max(0, options.size - n)) for n in image.shape], "symmetric")
    rows = []
    with tempfile.TemporaryDirectory(prefix="embedseg-large-") as name:
        folder = Path(name)
        write_image(folder / "volume.ome.zarr", image[(slice(options.size),) * 3])
        settings = {"tta": options.tta, "tile": (options.tile,) * 3}
        run(folder, None, 1, **settings | {"tta": "none"})  # compiles
        for workers in options.workers:
            rows.append(run(folder, workers or None, options.repeats, **settings))
            row = rows[-1]
            print(
                f"{workers or 'no'} workers  {row['seconds']:.1f} s, {row['slowest']} alone "
                f"{row['slowest_alone']:.1f} s, ratio {row['ratio']:.3f} "
                f"({', '.join(f'{r:.3f}' for r in row['ratios'])})",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps({"imports": imports, "runs": rows}, indent=2))


if __name__ == "__main__":
    main()
