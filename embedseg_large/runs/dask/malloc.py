"""How the memory allocator of worker processes is set, before they start.

Dask has glibc give memory back as soon as 64 KiB of it are free (``MALLOC_TRIM_THRESHOLD_``). As a
side effect glibc no longer learns which sizes are asked for again and again, and the network's
tensors are mapped and cleared anew, a page fault for every 4 KiB: 1.43 instead of 0.66 µs per voxel
and pass on one core. Told not to map sizes up to 32 MiB, the most that glibc takes, it needs 0.67
to 0.75 µs, and memory is still given back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dask

ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20)}
"""What worker processes need in their environment from the start."""


@contextmanager
def allocator_set() -> Iterator[None]:
    """Workers that this process starts meanwhile have `ENVIRONMENT`."""
    names = "distributed.nanny.pre-spawn-environ"
    with dask.config.set({f"{names}.{name}": value for name, value in ENVIRONMENT.items()}):
        yield


def prologue_of_job(given: tuple[str, ...]) -> list[str]:
    """Lines of a job's script before its workers: these variables, then what the user wants.

    Parameters
    ----------
    given
        The user's lines; without any, those of the site's own Dask configuration.
    """
    exports = [f"export {name}={value}" for name, value in ENVIRONMENT.items()]
    site = dask.config.get("jobqueue.slurm.job-script-prologue", None) or []
    return [*exports, *(given or site)]
