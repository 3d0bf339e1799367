"""Try what is proven on many random runs, against the rule read plainly, and print figures.

    python scripts/promise.py --count 5000 --first 0 [--seconds 240]

A run is a function of its number: hostile predictions, in 2D or 3D, a way to cut them into tiles,
thresholds, now and then `--strict` or a preview of a region: `tests/properties/test_promise.py`.
Prints JSON; ends with 1, and the numbers of those runs, if anything was wrong that may never be.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.properties.test_promise import WRONG, judged


def main() -> int:
    """Count; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--first", type=int, default=0, help="number of the first run")
    parser.add_argument("--count", type=int, default=1000, help="runs")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many")
    asked = parser.parse_args()
    total, wrong, began = Counter[str](), list[int](), time.monotonic()
    for number in range(asked.first, asked.first + asked.count):
        if time.monotonic() - began > asked.seconds:
            break
        with tempfile.TemporaryDirectory(prefix="promise-") as scratch:
            counted = judged(number, Path(scratch))
        total.update({"runs": 1} | counted)
        wrong += [number] if any(counted[kind] for kind in WRONG) else []
    print(json.dumps(dict(total) | {"wrong runs": wrong}, indent=1))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
