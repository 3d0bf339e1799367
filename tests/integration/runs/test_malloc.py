"""Workers keep the memory that the network asks for again and again."""

from __future__ import annotations

import os
from typing import Any

import dask
import pytest

from embedseg_large.runs.dask.malloc import ENVIRONMENT, prologue_of_job


def test_workers_start_with_the_allocator_set(client: Any) -> None:
    for found in client.run(lambda: dict(os.environ)).values():
        assert found.items() >= ENVIRONMENT.items()


@pytest.mark.parametrize(
    ("given", "site", "lines"),
    [
        ((), None, []),
        (("module load a",), ["module load b"], ["module load a"]),
        ((), ["module load b"], ["module load b"]),
    ],
)
def test_jobs_set_it_before_what_their_user_or_site_wants(
    given: tuple[str, ...], site: list[str] | None, lines: list[str]
) -> None:
    with dask.config.set({"jobqueue.slurm.job-script-prologue": site}):
        first, *others = prologue_of_job(given)
    assert first.startswith("export MALLOC_MMAP_THRESHOLD_=")
    assert others == lines
