"""Whether workers have the memory that a tile takes, asked before any of them is started."""

from __future__ import annotations

import logging

from dask.utils import format_bytes, parse_bytes

from embedseg_large.errors import UsageError
from embedseg_large.runs.dask.cluster_file import LocalSettings
from embedseg_large.segmentation.request.estimate import make_plan
from embedseg_large.segmentation.request.request import Order

HOPELESS = 0.5
"""Part of the memory in the plan, an upper bound, below which a tile kills its worker for sure."""

logger = logging.getLogger(__name__)


def check_memory(where: object, order: Order) -> None:
    """Compare the memory limit of local workers, if one is set, with what the plan says.

    Parameters
    ----------
    where
        Settings, or a client; only of local workers a limit is known.
    order
        What is to be done. Predictions that are kept already need no network, and are not asked.

    Raises
    ------
    UsageError
        A worker has less than half of it. Less than all of it is a warning.
    """
    if not isinstance(where, LocalSettings) or where.memory is None or order.kept_in is not None:
        return
    limit, needed = parse_bytes(where.memory), make_plan(order).worker_bytes
    if limit >= needed:
        return
    told = (
        f"{where.file}: memory gives a worker {format_bytes(limit)}, and a tile takes up to "
        f"{format_bytes(needed)}; raise memory (with fewer workers), or make tiles smaller "
        "(--tile, --cluster-tile)"
    )
    if limit < HOPELESS * needed:
        raise UsageError(told)
    logger.warning(told)
