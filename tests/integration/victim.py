"""A run of its own process that is killed in the middle, for tests: ``python victim.py OUT STAGE``.

Kills itself, as a machine that loses its power does, as soon as a task of the stage is done; with a
third argument ``sleeps`` it stays there instead, doing nothing. With a further one ``own``, OUT is
the store of the image itself.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

import embedseg_large as es
from embedseg_large.runs import journal
from embedseg_large.testing.objects import Flaws
from embedseg_large.testing.oracle import OracleNetwork
from embedseg_large.testing.synthetic import synthetic_embryo

OPTIONS: dict[str, Any] = {"cluster_tile": (24, 30, 30), "halo": (6, 6, 6)}


def embryo() -> NDArray[Any]:
    """Labels as an image whose percentiles become 0 and 1."""
    return synthetic_embryo((52, 60, 58), density=0.5, diameter=11, seed=3).astype(np.uint16)


def network(labels: NDArray[Any]) -> OracleNetwork:
    """An oracle whose predictions make some tiles disagree at first."""
    return OracleNetwork.of(labels, flaws=Flaws(noise=1.0), tile=(24, 24, 24))


class Victim:
    """A watcher that ends the process when a stage has done a tile."""

    def __init__(self, stage: str, sleeps: bool) -> None:
        self.stage = stage
        self.sleeps = sleeps

    def begin(self, stage: str, tiles: int) -> None:
        """Nothing yet."""

    def advance(self, stage: str) -> None:
        """A tile is done."""
        if stage != self.stage:
            return
        if self.sleeps:
            time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    out, stage, *more = sys.argv[1:]
    journal.FLUSH_SECONDS = 0.0  # as if every task took longer than that
    labels = embryo()
    place: dict[str, Any] = {} if "own" in more else {"output": out}
    es.segment(
        out if "own" in more else labels,
        network(labels),
        watcher=Victim(stage, "sleeps" in more),
        intensity_range=(0, 1),
        **place,
        **OPTIONS,
    )
