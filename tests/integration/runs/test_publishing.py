"""A run that is killed or put to sleep at any step ends well: labels whole, and nothing beside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.conftest import Faults

PROGRAM = Path(__file__).with_name("publishing.py")


def passes(place: object, *arguments: object) -> None:
    command = [sys.executable, PROGRAM, place, *arguments]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "steps passed" in done.stdout


# All steps take a quarter of an hour: python publishing.py PLACE kill fresh|overwrite|foreign
@pytest.mark.parametrize("steps", [("fresh", 0, 60, 9), ("overwrite", 3, 80, 11)])
@pytest.mark.slow
def test_a_kill_at_some_steps_of_a_publication_is_mended(
    tmp_path: Path, steps: tuple[object, ...]
) -> None:
    passes(tmp_path / "place", "kill", *steps)


@pytest.mark.slow
@pytest.mark.parametrize("older", ["fresh", "overwrite"])
def test_a_kill_at_any_step_of_a_publication_in_a_bucket_is_mended_by_the_same_command(
    faults: Faults, older: str
) -> None:
    assert not faults.requests
    passes("s3://embryos/place", "kill", older)


def test_a_kill_at_some_steps_of_a_publication_is_mended_by_the_same_command(
    tmp_path: Path,
) -> None:
    passes(tmp_path / "place", "kill", "foreign", 0, 30, 15)


@pytest.mark.slow
def test_a_client_that_sleeps_at_some_steps_changes_nothing_when_it_wakes(tmp_path: Path) -> None:
    passes(tmp_path / "place", "sleep", "overwrite", 5, 80, 15)
