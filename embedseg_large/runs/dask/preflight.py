"""Checks of all workers before a run begins, in one round of messages.

Otherwise a run would hang (no worker offers the GPU that its tasks ask for), lose results (a
worker's ``/data`` is another disk) or
produce labels that depend on the worker (versions).
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import secrets
import socket
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

from distributed import Client, Worker

from embedseg_large.errors import EmbedSegError, OutputError, UsageError
from embedseg_large.storage.bucket import RemoteFolder
from embedseg_large.storage.connection import Retries, is_remote, shown
from embedseg_large.storage.open import folder_at

PACKAGES = ("embedseg-large", "numpy", "zarr", "numba", "torch", "distributed")
"""Packages that decide labels, files or messages, and must be the same everywhere."""
SEEN_SECONDS = 5
"""Seconds until a file of the client must be visible to a worker: network drives are cached."""
PROBE_SECONDS = 10
"""Seconds that a worker may take for a place: a lost drive blocks forever."""
ANSWER_SECONDS = 30
"""Seconds that all workers together may take to respond."""
NAMED = 3
"""Maximum number of workers named in a message; others are counted."""


@dataclass(frozen=True)
class SharedPlace:
    """A folder, store or file that every worker must be able to access."""

    name: str
    """Name in messages: absolute path, or URL without credentials."""
    target: str
    """The path or URL that must exist: the place itself, or a file or object that the client put
    there."""
    write: bool
    """Whether a worker must be able to put another one beside `target`."""


@dataclass(frozen=True)
class Fault:
    """The problem with a place on a worker, and its solution."""

    what: str
    advice: str


OTHER = Fault(
    "does not exist, or is a different folder,",
    "choose a place on a drive that all workers share, under the same absolute path",
)
OTHER_STORE = Fault(
    "is a different place",
    "set the same variables (AWS_ENDPOINT_URL, ...) in the environment of all workers",
)
READ_ONLY = Fault(
    "cannot be written", "give these workers permission to write there, or choose another place"
)
SILENT = Fault(
    "does not answer", "repair the drive or the network there, or leave out these workers"
)


@dataclass(frozen=True)
class WorkerReport:
    """The report of a worker, or of the scheduler."""

    host: str
    versions: Mapping[str, str | None]
    """Version of python (major and minor) and of each package; None: not installed."""
    faults: Mapping[str, Fault] = field(default_factory=dict)
    """Faulty places, by name."""
    gpus: float = 0
    """Number of GPUs that it offers as a Dask resource."""


Reports: TypeAlias = Mapping[str, WorkerReport]
"""Report of each worker, by its address."""


def check_workers(
    client: Client,
    *,
    device: str,
    places: Sequence[str],
    needs_gpu: bool,
    inputs: Sequence[str] = (),
) -> None:
    """Check that the workers can execute the run, in one round of messages.

    Workers respond while they compute. Those that join later are not checked.

    Parameters
    ----------
    client
        Client of a cluster with at least one worker.
    device
        ``cpu`` or ``cuda``: device of the network.
    places
        Folders and stores that all workers must be able to read and write: output, scratch. They
        need not exist yet.
    needs_gpu
        Whether the run has prediction tasks.
    inputs
        Files, folders, stores that all workers must be able to read: image, model. Copies are fine.

    Raises
    ------
    UsageError
        If something is missing; the message names it, the workers, and what to do.
    OutputError
        If this process cannot write to a place.
    """
    with _probes(places, inputs) as probes:
        reports = _ask(client, probes)
    _check_versions(_ask_scheduler(client), reports)
    _check_places(reports)
    if needs_gpu and device.startswith("cuda"):
        _check_gpus(device, reports)


async def probe_places(places: Sequence[SharedPlace], dask_worker: Worker) -> WorkerReport:
    """Report the view of a worker.

    Runs on the worker's event loop, which stays responsive: drives and networks are accessed in
    threads.
    """
    faults = await asyncio.gather(*(_fault_in_time(place) for place in places))
    return replace(
        own_report(),
        faults={p.name: fault for p, fault in zip(places, faults, strict=True) if fault},
        gpus=dask_worker.state.total_resources.get("GPU", 0),
    )


def own_report() -> WorkerReport:
    """Report the versions of this process."""
    major, minor, _ = platform.python_version_tuple()
    versions = {"python": f"{major}.{minor}"} | {name: _version(name) for name in PACKAGES}
    return WorkerReport(host=socket.gethostname(), versions=versions)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


async def _fault_in_time(place: SharedPlace) -> Fault | None:
    try:
        return await asyncio.wait_for(asyncio.to_thread(fault_of, place), PROBE_SECONDS)
    except TimeoutError:
        return SILENT


def fault_of(place: SharedPlace) -> Fault | None:
    """Return the problem with a place in this process; None if there is none."""
    if is_remote(place.target):
        return _written_fault(place.target) if place.write else _read_fault(place.target)
    deadline = time.monotonic() + SEEN_SECONDS
    while not os.access(place.target, os.R_OK):
        if time.monotonic() > deadline:
            return OTHER
        time.sleep(0.1)
    if place.write and not _can_write(f"{place.target}-{secrets.token_hex(8)}"):
        return READ_ONLY
    return None


def _read_fault(url: str) -> Fault | None:
    """Request any object: that there is none is an answer too."""
    try:
        _impatient(url).exists("zarr.json")
    except EmbedSegError as error:
        return _unreachable(error)
    return None


def _written_fault(url: str) -> Fault | None:
    """Request the object of the client, and write another one."""
    parent, _, name = url.rpartition("/")
    mine = f"{name}-{secrets.token_hex(8)}"
    try:
        folder = _impatient(parent)
        if not folder.exists(name):
            return OTHER_STORE
        folder.write(mine, b"")
        folder.remove(mine)
    except OutputError as error:
        return replace(READ_ONLY, what=f"{READ_ONLY.what} ({_said(error)})")
    except EmbedSegError as error:
        return _unreachable(error)
    return None


def _impatient(url: str) -> RemoteFolder:
    """A folder that reports errors before the timeout."""
    usual = Retries.from_environment()
    total, silence = min(usual.total, PROBE_SECONDS / 2), min(usual.silence, PROBE_SECONDS / 4)
    return RemoteFolder.at(url, Retries(total, silence))


def _unreachable(error: EmbedSegError) -> Fault:
    return Fault(
        f"cannot be reached ({_said(error)})",
        "give these workers access to it, and the necessary environment variables",
    )


def _said(error: EmbedSegError) -> str:
    """An error without the parts that differ between workers."""
    return re.sub(r", tried \d+ times", "", str(error))


def _can_write(file: str) -> bool:
    try:
        Path(file).touch(exist_ok=False)
        Path(file).unlink()
    except OSError:
        return False
    return True


@contextmanager
def _probes(places: Iterable[str], inputs: Iterable[str]) -> Iterator[list[SharedPlace]]:
    """The places, with a file or object of this process in each that is to be written."""
    to_write = [_written(path) for path in dict.fromkeys(places)]
    with ExitStack() as stack:
        for place in to_write:
            folder, _, name = place.target.rpartition("/")
            folder_at(folder).write(name, b"")
            stack.callback(folder_at(folder).remove, name)
        yield [*to_write, *(_read(path) for path in dict.fromkeys(inputs))]


def _written(path: str) -> SharedPlace:
    """A place to write to; the probe of a folder that does not exist yet is in one above it."""
    folder = name = folder_at(path).path
    if not is_remote(path):
        folder = str(next(p for p in (Path(name), *Path(name).parents) if p.is_dir()))
    return SharedPlace(name, f"{folder}/.seen-by-workers-{secrets.token_hex(8)}", write=True)


def _read(path: str) -> SharedPlace:
    """A read-only place."""
    if is_remote(path):
        return SharedPlace(shown(path), path, write=False)
    local = folder_at(path).path
    return SharedPlace(local, local, write=False)


def _ask(client: Client, places: Sequence[SharedPlace]) -> dict[str, WorkerReport]:
    """Ask all workers at once, with a timeout for stuck ones."""

    async def ask() -> Any:
        return await client.run(probe_places, places, on_error="return")

    try:
        answers = client.sync(ask, callback_timeout=ANSWER_SECONDS)
    except TimeoutError:
        raise UsageError(
            f"not all workers respond within {ANSWER_SECONDS} s; silent for the longest time: "
            f"{_longest_silent(client)}; restart these"
        ) from None
    reports = {address: found for address, found in answers.items() if _is_report(address, found)}
    if not reports:
        raise UsageError("the cluster has no workers; start some, and try again")
    return reports


def _is_report(address: str, answer: WorkerReport | Exception) -> bool:
    """Whether a worker is present and has responded.

    A worker that leaves meanwhile breaks the connection, an `OSError`; it gets no tasks either.
    """
    if isinstance(answer, Exception) and not isinstance(answer, OSError):
        raise _cannot_run(f"worker {address}", answer)
    return isinstance(answer, WorkerReport)


def _ask_scheduler(client: Client) -> WorkerReport:
    """Check the scheduler, which must be able to unpickle tasks."""
    try:
        found: WorkerReport = client.run_on_scheduler(own_report)
    except Exception as error:  # anything that importing this module raises there
        raise _cannot_run("the scheduler", error) from error
    return found


def _cannot_run(who: str, error: Exception) -> UsageError:
    said = " ".join(f"{type(error).__name__}: {error}".split())
    return UsageError(
        f"{who} cannot read tasks of embedseg-large ({said}); "
        f"install embedseg-large {_version('embedseg-large')} there"
    )


def _longest_silent(client: Client) -> str:
    """The workers with the oldest sign of life."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    ordered = sorted(workers, key=lambda address: float(workers[address]["last_seen"]))
    return ", ".join(ordered[:NAMED])


def _check_versions(scheduler: WorkerReport, reports: Reports) -> None:
    """Compare versions with those here; builds of torch (cpu, cuda) only among workers."""
    for name, ours in own_report().versions.items():
        differing: dict[str | None, list[str]] = defaultdict(list)
        if _release(scheduler.versions.get(name)) != _release(ours):
            differing[scheduler.versions.get(name)].append("the scheduler")
        for address, report in reports.items():
            theirs = report.versions.get(name)
            if _release(theirs) != _release(ours):
                differing[theirs].append(_named(address, report))
        for theirs, where in differing.items():
            raise UsageError(
                f"{name} is {ours} here and {theirs or 'missing'} on {_list(where)}; "
                "install the same version everywhere"
            )
    _check_builds(reports)


def _check_builds(reports: Reports) -> None:
    builds = defaultdict(list)
    for address, report in reports.items():
        builds[report.versions.get("torch")].append(_named(address, report))
    if len(builds) > 1:
        found = "; ".join(f"{build} on {_list(where)}" for build, where in builds.items())
        raise UsageError(
            f"workers have different builds of torch, on which labels would depend: {found}; "
            "install the same build everywhere"
        )


def _check_places(reports: Reports) -> None:
    found = defaultdict(list)
    for address, report in reports.items():
        for place, fault in report.faults.items():
            found[place, fault].append(_named(address, report))
    for (place, fault), where in found.items():
        raise UsageError(
            f"{place} {fault.what} on {len(where)} of {len(reports)} workers: {_list(where)}; "
            f"{fault.advice}"
        )


def _check_gpus(device: str, reports: Reports) -> None:
    if not any(report.gpus >= 1 for report in reports.values()):
        raise UsageError(
            f"device is {device}, but none of {len(reports)} workers offers the resource GPU; "
            'start workers with --resources "GPU=1"'
        )


def _release(version: str | None) -> str | None:
    """A version without its local part: 2.6.0 of 2.6.0+cu124."""
    return None if version is None else version.split("+")[0]


def _named(address: str, report: WorkerReport) -> str:
    return f"{report.host} ({address})"


def _list(where: Sequence[str]) -> str:
    more = f" and {len(where) - NAMED} more" if len(where) > NAMED else ""
    return ", ".join(where[:NAMED]) + more
