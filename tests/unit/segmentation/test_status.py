"""Which stage a ledger belongs to, and what `status` counts of runs that have not ended."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import embedseg_large as es
from embedseg_large.runs.events import Event, Recalled, TaskDone
from embedseg_large.runs.progress import Observer
from embedseg_large.segmentation.status import RunStatus, run_status
from embedseg_large.segmentation.steps import LedgerKind, Stage
from embedseg_large.testing.oracle import OracleNetwork


@pytest.mark.parametrize("section", ["", "t00003/"])
@pytest.mark.parametrize("ledger", LedgerKind)
def test_a_ledger_is_known_by_its_name_in_the_journal(ledger: LedgerKind, section: str) -> None:
    assert LedgerKind.of(section + ledger.part()) is ledger
    assert LedgerKind.of(section + ledger.part(3, "x")) is ledger
    assert isinstance(ledger.stage, Stage)


def test_names_in_the_journal_are_those_of_older_runs() -> None:
    assert LedgerKind.COMPARE.part(2) == "check/2"
    assert LedgerKind.CLAIM.part("whole", 3) == "claim/whole/3"
    assert [ledger.part() for ledger in (LedgerKind.PREDICT, LedgerKind.SETTLE)] == [
        "predict",
        "settle",
    ]
    assert LedgerKind.of("later/0") is None


class Stop(Observer):
    """Counts tasks, and ends the run when a stage has done one."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.done: Counter[str] = Counter()

    def notice(self, event: Event) -> None:
        if isinstance(event, TaskDone | Recalled):
            self.done[event.stage] += 1
            if event.stage == self.stage:
                raise KeyboardInterrupt


def rods() -> NDArray[Any]:
    """Objects longer than a tile sees, so that they are joined, or claimed."""
    image = np.zeros((64, 64), np.uint16)
    image[6:12, 4:60], image[30:38, 10:20], image[20:60, 44:50] = 1, 2, 3
    return image


def labelled(image: NDArray[Any]) -> NDArray[Any]:
    from scipy import ndimage

    found: NDArray[Any] = ndimage.label(image > 0.5)[0]
    # tiles at the border see less, and disagree with the others about what is one object
    return np.where(found > 0, 1, 0) if image.shape[1] < 32 else found


@pytest.mark.parametrize("kind", ["ours", "external"])
def test_status_counts_the_tasks_of_every_ledger(tmp_path: Path, kind: str) -> None:
    image, out, stop = rods(), tmp_path / "out.zarr", Stop(Stage.FINISH)
    network: Any = OracleNetwork.of(image)
    options: dict[str, Any] = {"output": out, "intensity_range": (0, 1), "watcher": stop}
    options |= {"cluster_tile": (16, 16), "halo": (8, 8)}
    if kind == "external":
        network = es.TileSegmenter(labelled, name="mine", ndim=2, halo=(8, 8), tile=(16, 16))
        options |= {"max_halo": (8, 8)}
    with pytest.raises(KeyboardInterrupt):
        es.segment(image, network, **options)
    found = run_status(out)
    assert isinstance(found, RunStatus)
    counted = {stage: done for stage, (done, _) in found.stages.items()}
    del stop.done[Stage.FINISH], counted[Stage.FINISH]  # killed between the task and its note
    assert counted == dict(stop.done) | {s: n for s, n in counted.items() if s == Stage.STATISTICS}
    grid = 4 * 4
    assert (counted[Stage.CHECK] > 4 * grid) == (kind == "external")  # claims, and what is settled
