"""Options of long runs: who does the work."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from embedseg_large.options import Flag, Options


@dataclass(frozen=True, kw_only=True)
class WorkerOptions(Options):
    """Which processes do the work; at most one of these, none: this process."""

    heading: ClassVar[str | None] = "Work"

    client: Any = None
    """A `distributed.Client` whose workers do the work. Without it, and without `workers`,
    `scheduler` and `cluster_config`, the work is done in this process."""
    workers: Annotated[
        int | None,
        Flag("Local worker processes to start. Default: this process alone.", min=1),
    ] = None
    """Number of local worker processes to start."""
    scheduler: Annotated[str | None, Flag("Address of a running Dask scheduler.")] = None
    """Address of a running Dask scheduler."""
    cluster_config: Annotated[
        str | os.PathLike[str] | None,
        Flag(
            "YAML file of a cluster to start or use: local, cuda, slurm, scheduler.",
            form="text",
            metavar="FILE",
        ),
    ] = None
    """File with the settings of a cluster to start or to use, see
    `embedseg_large.runs.dask.cluster_file`."""
