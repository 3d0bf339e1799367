"""A pass of the network and a training step, alone and beside busy processes on the same cores.

Threads of OpenMP that wait spin, and on crowded cores they take the time of those they wait for.
The command line lets them spin briefly (`embedseg_large.cli.console.wait_briefly`); each way is a
process of its own, as the variable is read when torch is imported.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WAYS = {"spinning (torch's default)": None, "brief (the command line's)": "20000"}
"""Value of GOMP_SPINCOUNT."""
BUSY = "while True: pass"


def main() -> None:
    """Measure every way, alone and in the crowd, in turns."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--busy", type=int, default=2, help="busy processes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="passes and steps each time")
    parser.add_argument("--shape", default="32,64,64", help="of the image of a pass")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        shape = tuple(int(n) for n in options.shape.split(","))
        print(json.dumps({"pass": passes(options.steps, shape), "step": steps(options.steps)}))
        return
    found: dict[tuple[str, str, str], list[float]] = {}
    for _ in range(options.repeats):
        for way, spin in WAYS.items():
            for place, busy in (("alone", 0), ("crowd", options.busy)):
                with crowd(busy):
                    for what, seconds in measured(spin, options).items():
                        found.setdefault((way, what, place), []).append(seconds)
    rows = []
    print("| waiting | what | alone, s | in the crowd, s | times |\n|---|---|---|---|---|")
    for way in WAYS:
        for what in ("pass", "step"):
            alone, crowded = (statistics.median(found[way, what, p]) for p in ("alone", "crowd"))
            rows.append({"way": way, "what": what, "alone_s": alone, "crowd_s": crowded})
            print(f"| {way} | {what} | {alone:.3f} | {crowded:.3f} | {crowded / alone:.2f} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


@contextmanager
def crowd(busy: int) -> Iterator[None]:
    """Keep so many processes busy."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measured(spin: str | None, options: argparse.Namespace) -> dict[str, float]:
    """Median seconds of a pass and a step, in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    if spin is not None:
        environment["GOMP_SPINCOUNT"] = spin
    command = [sys.executable, __file__, "--measure", "--steps", str(options.steps)]
    command += ["--shape", options.shape]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(told.stdout.splitlines()[-1])
    return found


def passes(count: int, shape: tuple[int, ...]) -> float:
    """Median seconds of what `segment` does per pass: as many lanes as cores, one thread each."""
    import numpy as np

    import embedseg_large as es

    model = es.load_model("nuclei-3d")
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    times = []
    for _ in range(count + 1):  # the first makes the kernels
        began = time.perf_counter()
        model.predict_raw(image, "4")
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def steps(count: int) -> float:
    """Median seconds of a training step."""
    from step import crops, seconds

    from embedseg_large.training.learner import Learner
    from embedseg_large.training.processes import Processes
    from embedseg_large.training.settings import TrainSettings

    settings = TrainSettings(batch=2, accumulate=1, dtype="float32", epochs=1)
    learner = Learner(crops(2 * (count + 2)), settings, None, Processes("cpu"))
    return statistics.median(seconds(learner, 0))


if __name__ == "__main__":
    main()
