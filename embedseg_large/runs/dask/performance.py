"""Dask's performance report of its workers: an HTML page."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from distributed import Client
from distributed import performance_report as dask_report

from embedseg_large.errors import UsageError
from embedseg_large.storage.disk import check_file

logger = logging.getLogger(__name__)


@contextmanager
def performance_report(client: Client, path: str | os.PathLike[str]) -> Iterator[None]:
    """Write a report of the tasks of the body, whether they succeed or not.

    Raises
    ------
    UsageError
        If the report cannot be made: the scheduler has no bokeh, or no file can be written there.
        Nothing has been computed then. Later problems are warnings.
    """
    _check(client, Path(path))
    # with bokeh's scripts inside, otherwise they would be fetched whenever the page is opened
    report = dask_report(filename=os.fspath(path), mode="inline")
    with client.as_current():
        report.__enter__()
        try:
            yield
        finally:
            _write(report, path)


def _check(client: Client, path: Path) -> None:
    check_file(path)
    try:
        client.run_on_scheduler(version, "bokeh")
    except ModuleNotFoundError:
        raise UsageError(
            "a performance report needs bokeh, which is not installed at the Dask scheduler; pip "
            "install bokeh there"
        ) from None


def _write(report: dask_report, path: str | os.PathLike[str]) -> None:
    try:
        report.__exit__(None, None, None)
    except Exception as error:  # of the scheduler, of the network, of the disk, of bokeh
        logger.warning("%s: no performance report (%s: %s)", path, type(error).__name__, error)
