"""Lint, types and tests of the room of one file: ``make check FILE=embedseg_large/runs/lock.py``.

Tests mirror the rooms: those of ``embedseg_large/runs/dask/clusters.py`` are
``tests/unit/runs/dask``. The import rules are checked with any file. Integration tests take longer;
run those of the room in ``tests/integration`` by hand, or all with ``make test``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "embedseg_large"
BIN = Path(sys.executable).parent
ALWAYS = ("tests/test_architecture.py", "tests/test_public_names.py")


def tests_of(file: Path) -> list[str]:
    """The unit tests of the room of a file; a file of tests is its own."""
    if PACKAGE not in (file, *file.parents):
        return [str(file)]
    room = file if file.is_dir() else file.parent
    if room == PACKAGE:  # a value or the like: one file of tests
        found = [ROOT / "tests/unit" / f"test_{file.stem}.py"]
    else:
        found = [ROOT / "tests/unit" / room.relative_to(PACKAGE)]
    return [str(path) for path in found if path.exists()]


def main() -> None:
    """Run all checks, and fail with the first that fails."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).exists():
        sys.exit("usage: make check FILE=embedseg_large/runs/lock.py")
    file = Path(sys.argv[1]).resolve()
    for command in (
        [str(BIN / "ruff"), "check", str(file)],
        [str(BIN / "ruff"), "format", "--check", str(file)],
        [str(BIN / "mypy"), str(file)],
        [str(BIN / "pytest"), "-q", *ALWAYS, *tests_of(file)],
    ):
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            sys.exit(f"failed: {' '.join(command)}")


if __name__ == "__main__":
    main()
