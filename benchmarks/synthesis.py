"""Synthetic volumes that one core draws in a second of its time, and what the time goes to."""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import time
from pathlib import Path
from typing import Any

from embedseg_large.synthesis import SynthesisSettings, draw_volume, read_settings
from embedseg_large.training.data.synthetic import SyntheticSource

STAGES = {
    "noise fields": "smooth_noise",
    "painting": "paint",
    "pieces": "keep_pieces",
    "light": "shine",
    "optics": "project",
    "camera": "record",
}
"""Parts of a volume's time and the function that holds each; light and optics draw noise, too."""


def seconds_of(call: Any, count: int) -> list[float]:
    """Time of this process for each of several calls with their number."""
    found = []
    for index in range(count):
        began = time.process_time()
        call(index)
        found.append(time.process_time() - began)
    return found


def profile(settings: SynthesisSettings, count: int) -> dict[str, float]:
    """Milliseconds a volume spends in each stage."""
    profiler = cProfile.Profile(time.process_time)
    profiler.enable()
    for index in range(count):
        draw_volume(settings, 0, index)
    profiler.disable()
    totals = {
        name: timing[3]  # cumulative
        for (_, _, name), timing in pstats.Stats(profiler).stats.items()  # type: ignore[attr-defined]
    }
    return {stage: 1e3 * totals.get(name, 0.0) / count for stage, name in STAGES.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--settings", help="as of train --synthetic-settings; default: defaults")
    parser.add_argument("--count", type=int, default=100, help="volumes; the more, the steadier")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    settings = read_settings(options.settings)
    draw_volume(settings, 0, 0)  # compiles
    times = seconds_of(lambda index: draw_volume(settings, 0, index), options.count)
    source = SyntheticSource(settings, options.count, 0, cache_bytes=0)
    source.volume(0)
    whole = seconds_of(source.volume, options.count)
    row = {
        "shape": " x ".join(map(str, settings.volume_shape)),
        "volumes/s of a core": options.count / sum(times),
        "slowest, ms": 1e3 * max(times),
        "with centres and percentiles, volumes/s": options.count / sum(whole),
        **{f"  {stage}, ms": ms for stage, ms in profile(settings, options.count).items()},
    }
    for name, value in row.items():
        print(f"{name:42} {value if isinstance(value, str) else f'{value:8.1f}'}")
    if options.json:
        options.json.write_text(json.dumps(row, indent=2))


if __name__ == "__main__":
    main()
