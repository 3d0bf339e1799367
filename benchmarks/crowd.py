"""A pass of the network and a training step, alone and beside busy processes on the same cores.

Threads of OpenMP that wait spin, and on crowded cores they take the time of those they wait for.
The command line lets them spin briefly (`embedseg_large.cli.console.wait_briefly`); each way is a
process of its own, as the variable is read when torch is imported. Two busy processes on two cores
leave half of them to the two threads of a step, which then takes twice as long at best; where the
kernel shares among sessions (autogroups) and each is one (`--sessions`), a third: three times.
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
    parser.add_argument("--sessions", action="store_true", help="each in a session of its own")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="passes and steps each time")
    parser.add_argument("--shape", default="32,64,64", help="of the image of a pass")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options)))
        return
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(options.repeats):
        for way, spin in WAYS.items():
            for what, seconds in measured(spin).items():
                found.setdefault((way, what), []).append(seconds)
    rows = []
    print("| waiting | what | alone, s | in the crowd, s | times |\n|---|---|---|---|---|")
    for (way, what), runs in found.items():
        alone, crowded = (statistics.median(r[p] for r in runs) for p in ("alone", "crowd"))
        rows.append({"way": way, "what": what, "alone_s": alone, "crowd_s": crowded, "runs": runs})
        print(f"| {way} | {what} | {alone:.3f} | {crowded:.3f} | {crowded / alone:.2f} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def measured(spin: str | None) -> dict[str, dict[str, float]]:
    """What a process of its own measures that waits in this way."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    if spin is not None:
        environment["GOMP_SPINCOUNT"] = spin
    command = [sys.executable, __file__, *sys.argv[1:], "--measure"]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, dict[str, float]] = json.loads(told.stdout.splitlines()[-1])
    return found


def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Median seconds of a pass and a step, alone and beside busy processes."""
    shape = tuple(int(n) for n in options.shape.split(","))
    found: dict[str, dict[str, float]] = {"pass": {}, "step": {}}
    for place, busy in (("alone", 0), ("crowd", options.busy)):
        with crowd(busy, options.sessions):
            found["pass"][place] = passes(options.steps, shape)
            found["step"][place] = steps(options.steps)
    return found


@contextmanager
def crowd(busy: int, sessions: bool) -> Iterator[None]:
    """Keep so many processes busy."""
    command = [sys.executable, "-c", BUSY]
    others = [subprocess.Popen(command, start_new_session=sessions) for _ in range(busy)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


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
