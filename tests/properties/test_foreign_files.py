"""Whatever is done to a file, a command succeeds or ends in an error of ours, within its memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "fuzz.py"
KINDS = 15


@pytest.fixture(scope="module")
def tallies() -> dict[str, Any]:
    """What came of a few mutations of each kind of file, always the same ones."""
    command: Any = [sys.executable, SCRIPT, "--count", "25"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.stdout.startswith("{"), ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return {name: tally for name, tally in found.items() if isinstance(tally, dict)}


@pytest.mark.slow
def test_a_damaged_file_is_read_or_refused_in_one_line(tallies: dict[str, Any]) -> None:
    assert {name: tally["foreign"] for name, tally in tallies.items() if tally["foreign"]} == {}


@pytest.mark.slow
def test_files_of_every_kind_were_read_and_refused(tallies: dict[str, Any]) -> None:
    assert len(tallies) == KINDS
    for name, tally in tallies.items():
        assert tally["errors"], name
        assert tally["undamaged"].get("success") or name == "png", name
