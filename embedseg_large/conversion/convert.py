"""Conversion to OME-Zarr as a run: optionally on workers, and over as many attempts as it takes.

::

    FOLDER/x.ome.zarr                 the image; appears when it is complete
    FOLDER/.x.ome.zarr.conversion/    run.json, the journal, and the image so far
    FOLDER/.x.ome.zarr.conversion.lock/

Places (regions of a level) are tasks, and steps (levels) follow each other. A task writes complete
files, and always the same bytes, so the remains of an interrupted one are overwritten. The same
command resumes with what the journal does not know; a changed source or setting is refused.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from embedseg_large.conversion.components import components as numbered
from embedseg_large.conversion.file_stack import StackedFiles, open_source
from embedseg_large.conversion.options import ConvertOptions
from embedseg_large.conversion.plan import Conversion, Place, Step, plan_conversion
from embedseg_large.errors import EmbedSegError, UsageError
from embedseg_large.options import takes
from embedseg_large.runs.dask.backend import chosen, workers_for
from embedseg_large.runs.facts import Facts
from embedseg_large.runs.options import WorkerOptions
from embedseg_large.runs.progress import Observer, Progress, Watcher
from embedseg_large.runs.record import RunRecord, new_name, read_record
from embedseg_large.runs.run_folder import Run, RunPlace, open_run
from embedseg_large.runs.runner import SerialExecutor, TaskRunner
from embedseg_large.runs.tasks import Call, Each, Task
from embedseg_large.storage.connection import shown
from embedseg_large.storage.folder import Folder
from embedseg_large.storage.open import folder_at
from embedseg_large.volumes.content import content_of
from embedseg_large.volumes.multiscale import check_local
from embedseg_large.volumes.volume import Volume

logger = logging.getLogger(__name__)

_LIBRARIES = ("embedseg-large", "numpy", "zarr")
_IMAGE = "image-"


@takes(ConvertOptions)
def convert(
    source: Any,
    out: str | os.PathLike[str],
    *,
    watcher: Watcher | Observer | None = None,
    **options: Any,
) -> None:
    """Write an image as OME-Zarr with a pyramid, every channel and timepoint.

    If it is stopped for any reason, the same call resumes it, and ends with the same bytes.

    Parameters
    ----------
    source
        A TIFF, OME-TIFF or ImageJ TIFF, or whatever else `open_volume` reads; a folder of TIFFs; or
        a path with fields, such as ``"scan/t{t}_z{z:04d}.tif"``.
    out
        Folder to create.
    watcher
        Notified of the progress.
    **options

    Raises
    ------
    UsageError
        If `out` exists, files are missing or do not fit, an argument does not fit the image, or an
        unfinished conversion to `out` had another source or other settings.
    VolumeError
        If the source cannot be read.
    OutputError
        If `out` cannot be written.
    """
    asked = ConvertOptions.of(options, "convert")
    volume = open_source(source, asked)
    if told := volume.time_or_depth():
        logger.warning(told)
    if asked.components:
        if chosen(asked) is not None:
            raise UsageError("components are numbered on the whole image: leave out workers")
        volume = numbered(volume)
        asked = replace(asked, labels=True)
    if asked.channel_names is None:
        asked = replace(asked, channel_names=_channel_names(volume))
    final = check_local(os.fspath(out))
    is_ours = _is_published(_unfinished(final), final)
    plan = plan_conversion(volume, out, asked, is_ours=is_ours)
    run_conversion(plan, Progress(watcher), asked)


def _channel_names(volume: Volume) -> tuple[str, ...] | None:
    return volume.storage.grid.channels if isinstance(volume.storage, StackedFiles) else None


def run_conversion(plan: Conversion, progress: Progress, workers: WorkerOptions) -> None:
    """Execute the plan, or what earlier attempts have left of it.

    Raises
    ------
    UsageError, VolumeError, OutputError, RunError
        As for `convert`.
    """
    where = chosen(workers)
    if where is not None and plan.volume.path is None:
        raise UsageError(
            "the image is in this process's memory, which workers cannot read; pass a file"
        )
    with progress.telling_failure(), _open(plan) as run:
        image = _image(run.folder, run.record)
        store = plan.store(image)
        if _is_published(run.record, plan.final):
            return
        store.create()
        with _recorder(where, plan, run, image, progress) as runner:
            steps = list(plan.steps(store))
            progress.plan({"copy": steps[0].count(), "average": sum(s.count() for s in steps[1:])})
            for step in steps:
                progress.begin(step.name, step.count())
                runner.run(Each(_tasks(step)))
        _check_unchanged(plan.volume, run.facts)
        run.update(pending=str(plan.final))
        run.check()
        plan.publish(store)


def _tasks(step: Step) -> Iterator[Task]:
    for number, place in enumerate(step.places()):
        yield Task(
            stage=step.name,
            make=partial(_call, step, place),
            ledger=f"{step.name}/{step.level}",
            number=number,
            noted=lambda _: (0, None),
        )


def _call(step: Step, place: Place) -> Call:
    lead, box = place
    where = f"level {step.level} {box}" + (f" at {lead}" if lead else "")
    return Call(step.task, (place,), where=where, voxels=box.size)


# The run ----------------------------------------------------------------------------------------


@contextmanager
def _open(plan: Conversion) -> Iterator[Run]:
    """Start a conversion, or resume one; leaves no files behind on success."""
    folder = _folder(plan.final)

    def settle() -> None:
        for older in Path(folder.path).glob(f"{_IMAGE}*.old"):
            if not plan.final.exists():  # killed between the two renames of its publication
                older.rename(plan.final)

    place = RunPlace(
        folder=folder,
        lock=folder_at(_beside(plan.final, "conversion.lock")),
        overwrite=plan.overwrite,
        what="conversion",
        elsewhere="choose another place",
        is_whole=lambda found: _image(folder, found).is_dir() or _is_published(found, plan.final),
        settle=settle,
    )
    record = RunRecord(name=f"{_IMAGE}{new_name()}", overwrite=plan.overwrite, facts=_facts(plan))
    with open_run(place, record) as run:
        yield run


def _folder(final: Path) -> Folder:
    return folder_at(_beside(final, "conversion"))


def _image(folder: Folder, record: RunRecord) -> Path:
    """Return the location of the group until it is complete.

    No other run on this output uses the name, so a worker that was given up but comes back writes
    only into its own group.
    """
    return Path(folder.path, record.name)


def _is_published(record: RunRecord | None, final: Path) -> bool:
    """Whether an unfinished conversion was killed between the publication and its end."""
    if record is None or record.pending != str(final):
        return False
    return final.exists() and not _image(_folder(final), record).exists()


def _unfinished(final: Path) -> RunRecord | None:
    with suppress(EmbedSegError):
        return read_record(_folder(final))
    return None


def _beside(final: Path, ending: str) -> Path:
    return final.with_name(f".{final.name}.{ending}")


# What it is made of -----------------------------------------------------------------------------


def _facts(plan: Conversion) -> Facts:
    """Return everything that determines the image, as values that JSON can hold."""
    volume = plan.volume
    return {
        "source": None if volume.path is None else shown(volume.path),
        "content of the source": content_of(volume),
        "axes": volume.stored_axes,
        "shape": list(volume.stored_shape),
        "dtype": str(volume.dtype),
        "voxel_size": None if volume.voxel_size is None else list(volume.voxel_size),
        "ngff_version": plan.ngff_version,
        "chunks": None if plan.chunks is None else list(plan.chunks),
        "channel_names": list(plan.channel_names),
        "image": volume.image,
        "labels": plan.labels,
        "type": plan.dtype.name,
        "sampled": plan.sampled,
        "regions": [list(s.cut) for s in plan.steps(plan.store(plan.final))],  # of the notes
        "versions": {name: version(name) for name in _LIBRARIES},
    }


def _check_unchanged(volume: Volume, facts: Facts) -> None:
    if content_of(volume) != facts["content of the source"]:
        raise UsageError(
            f"{volume.name}: changed while it was converted; start over with --overwrite"
        )


# Who does it ------------------------------------------------------------------------------------


@contextmanager
def _recorder(
    where: Any, plan: Conversion, run: Run, image: Path, progress: Progress
) -> Iterator[TaskRunner]:
    """Provide the runner of the tasks, with the journal of the run."""
    if where is None:
        yield TaskRunner(SerialExecutor(), run.journal, progress)
        return
    inputs = [] if plan.volume.path is None else [plan.volume.path]
    with workers_for(where, inputs, [str(image)]) as executor:
        yield TaskRunner(executor, run.journal, progress)
