"""Events of a training, for TensorBoard; needs the extra of that name."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from embedseg_large.extras import extra
from embedseg_large.training.record import EpochRecord, TrainStart, TrainWatcher


class TensorBoardWatcher(TrainWatcher):
    """Writes losses, IoU, AP at each threshold, the learning rate and the sheets of pictures.

    Parameters
    ----------
    folder
        Folder for ``tensorboard --logdir``; created when training begins.

    Raises
    ------
    UsageError
        If the package is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        with extra("tensorboard", "TensorBoard's log", instead="train without it"):
            import_module("tensorboard")
        self._folder = Path(folder)
        self._writer: Any = None

    def begin(self, start: TrainStart) -> None:
        """Open the folder, and write the facts about the data."""
        from torch.utils.tensorboard import SummaryWriter

        # replaces what an earlier run wrote after the epoch from which it is resumed
        self._writer = SummaryWriter(self._folder, purge_step=start.epochs_done + 1)
        rows = "\n".join(f"| {name} | {fact} |" for name, fact in start.facts().items())
        self._writer.add_text("data", f"| | |\n|---|---|\n{rows}", start.epochs_done)

    def epoch(self, record: EpochRecord) -> None:
        """Write the numbers of an epoch, and its sheet if there is one."""
        values = {f"loss/{name}": value for name, value in record.loss.items()}
        values |= {"training/IoU": record.iou, "training/learning_rate": record.learning_rate}
        values |= {f"validation/AP_{at}": ap for at, ap in (record.ap or {}).items()}
        for name, by_iou in record.sets.items():
            values |= {f"validation_{name}/AP_{at}": ap for at, ap in by_iou.items()}
        for name, value in values.items():
            self._writer.add_scalar(name, value, record.epoch)
        for path in record.pictures:
            from matplotlib.image import imread

            name = Path(path).stem.removeprefix(f"epoch_{record.epoch:04d}").lstrip("_")
            pixels = imread(path)[..., :3]
            self._writer.add_image(name or "pictures", pixels, record.epoch, dataformats="HWC")
        self._writer.flush()

    def end(self) -> None:
        """Close the files."""
        self._writer.close()
