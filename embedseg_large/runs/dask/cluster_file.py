"""The file that describes the workers: YAML with a `kind` and its keys.

::

    kind: slurm            # or local, cuda, scheduler
    workers: 8             # or adapt: {minimum: 1, maximum: 32}
    cores: 4
    memory: 32GB
    gpus: 1
    walltime: 12:00:00

Everything is checked when the file is read, and every message names the file and the key.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from dask.utils import parse_bytes, parse_timedelta

from embedseg_large.errors import UsageError
from embedseg_large.runs.devices import THREADS_BESIDE_GPU

_WALLTIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<clock>\d+(?::\d+){0,2})")


@dataclass(frozen=True, kw_only=True)
class Adapt:
    """As many workers as there is work for, within limits."""

    minimum: int = 1
    """At least one, for the check at the start of a run."""
    maximum: int

    def __post_init__(self) -> None:
        if self.maximum < self.minimum:
            raise ValueError(f"has a maximum of {self.maximum} below its minimum {self.minimum}")


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """Settings common to all kinds."""

    file: str = "cluster settings"
    """File of the settings, for messages."""
    wait: float = 60
    """Seconds within which the first worker must start."""


@dataclass(frozen=True, kw_only=True)
class LocalSettings(_Settings):
    """``kind: local``: processes on this machine."""

    workers: int | None = None
    """Number of processes; exactly one of `workers` and `adapt` is given."""
    adapt: Adapt | None = None
    threads: int = 1
    """Number of tasks that a process runs at a time."""
    memory: str | None = None
    """Memory of each process, beyond which it is restarted; default: an equal share."""

    def __post_init__(self) -> None:
        _check_number_of_workers(self)


@dataclass(frozen=True, kw_only=True)
class CudaSettings(_Settings):
    """``kind: cuda``: one process per GPU of this machine, by dask-cuda."""

    workers: int | None = None
    """Number of GPUs; default: all in CUDA_VISIBLE_DEVICES, or all there are."""
    threads: int = THREADS_BESIDE_GPU
    """Number of tasks that a process runs at a time: one is on the GPU, a few read or write its
    next or last tiles, the others cluster and finish."""
    memory: str | None = None
    """Main memory of each process, beyond which it is restarted; default: an equal share."""


@dataclass(frozen=True, kw_only=True)
class SlurmSettings(_Settings):
    """``kind: slurm``: jobs, by dask-jobqueue."""

    workers: int | None = None
    """Number of jobs; exactly one of `workers` and `adapt` is given, and `adapt` counts jobs."""
    adapt: Adapt | None = None
    cores: int
    """Cores per job. With a GPU, a job is one process with this many threads, otherwise this many
    processes."""
    memory: str
    """Main memory per job."""
    walltime: str
    """Time limit of a job, in sbatch's format. Jobs that reach it are replaced by new ones."""
    gpus: int = 0
    """GPUs per job, 0 or 1."""
    queue: str | None = None
    """Partition."""
    account: str | None = None
    directives: tuple[str, ...] = ()
    """Additional options of sbatch. One that requests GPUs replaces ours, ``--gres=gpu:1``."""
    prologue: tuple[str, ...] = ()
    """Shell commands of a job before the worker starts: ``module load cuda``."""
    python: str | None = None
    """Python of the workers; default: the current one."""
    interface: str | None = None
    """Network interface of workers and scheduler: ``ib0``."""
    local_folder: str | None = None
    """Fast folder of a node for temporary files of Dask."""
    log_folder: str = "slurm-logs"
    """Folder for the output of jobs; created if missing."""
    wait: float = 600

    def __post_init__(self) -> None:
        _check_number_of_workers(self)

    @property
    def walltime_seconds(self) -> int:
        """The time limit of a job, in seconds."""
        return walltime_seconds(self.walltime)


@dataclass(frozen=True, kw_only=True)
class SchedulerSettings(_Settings):
    """``kind: scheduler``: a running Dask scheduler with its workers."""

    address: str
    """As the scheduler prints it: ``tcp://10.0.0.1:8786``."""


ClusterSettings: TypeAlias = LocalSettings | CudaSettings | SlurmSettings | SchedulerSettings

_KINDS: Mapping[str, type[ClusterSettings]] = {
    "local": LocalSettings,
    "cuda": CudaSettings,
    "slurm": SlurmSettings,
    "scheduler": SchedulerSettings,
}


def offers_gpu(settings: ClusterSettings) -> bool:
    """Whether workers of these settings are known to have a GPU, regardless of this machine."""
    return isinstance(settings, CudaSettings) or (
        isinstance(settings, SlurmSettings) and settings.gpus > 0
    )


def read_cluster_file(path: str | os.PathLike[str]) -> ClusterSettings:
    """Read a settings file.

    Parameters
    ----------
    path
        A YAML file: ``kind`` (local, cuda, slurm or scheduler) and the keys of that kind, which
        are the fields of the settings classes of this module.

    Returns
    -------
    ClusterSettings
        Checked settings; nothing has been started.

    Raises
    ------
    UsageError
        If the file cannot be read, or a key is unknown, missing or unusable; the message names
        both.
    """
    name = os.fspath(path)
    found = _mapping(name)
    kind = found.pop("kind", None)
    if not isinstance(kind, str) or kind not in _KINDS:
        given = "missing" if kind is None else repr(kind)
        raise UsageError(f"{name}: kind is {given}; use one of {', '.join(_KINDS)}")
    _check_keys(name, kind, found)
    values = {key: _value(name, key, value) for key, value in found.items()}
    try:
        return _KINDS[kind](file=name, **values)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from error


def walltime_seconds(text: str) -> int:
    """Read a time limit as sbatch does.

    Parameters
    ----------
    text
        ``minutes``, ``minutes:seconds``, ``hours:minutes:seconds``, ``days-hours``,
        ``days-hours:minutes`` or ``days-hours:minutes:seconds`` (the manual of sbatch, --time).

    Raises
    ------
    ValueError
        If it has none of these forms, or is zero.
    """
    match = _WALLTIME.fullmatch(text)
    parts = [int(part) for part in match["clock"].split(":")] if match else []
    if match and match["days"] is not None:
        hours, minutes, seconds = parts + [0] * (3 - len(parts))
        hours += 24 * int(match["days"])
    else:
        hours, minutes, seconds = {1: [0, *parts, 0], 2: [0, *parts], 3: parts}.get(
            len(parts), [0, 0, 0]
        )
    total = 3600 * hours + 60 * minutes + seconds
    if not total:
        raise ValueError(f"is {text!r}; use a time like 12:00:00 or 2-00:00:00")
    return total


def _check_number_of_workers(settings: LocalSettings | SlurmSettings) -> None:
    if (settings.workers is None) == (settings.adapt is None):
        raise ValueError("use either workers: 4 or adapt: {minimum: 1, maximum: 4}")


def _mapping(name: str) -> dict[str, Any]:
    """The keys of a file and their values: text, lists and mappings.

    The base loader does not convert text. YAML itself would read ``12:00:00`` as 43200, an
    account ``0123`` as 83 and a partition ``on`` as true.
    """
    try:
        found = yaml.load(Path(name).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except OSError as error:
        raise UsageError(f"{name}: cannot be read ({error.strerror}); pass a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{name}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise UsageError(f"{name}: not a list of keys with values, like `kind: local`")
    return found


def _check_keys(name: str, kind: str, found: Mapping[str, Any]) -> None:
    """Refuse unknown keys of the kind, and missing required ones."""
    known = {field.name: field for field in fields(_KINDS[kind]) if field.name != "file"}
    for key in found:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
            raise UsageError(f"{name}: kind {kind} has no key {key}; {hint}")
    for key, field in known.items():
        if field.default is MISSING and key not in found:
            raise UsageError(f"{name}: kind {kind} needs the key {key}")


def _value(name: str, key: str, value: Any) -> Any:
    read: Callable[[Any], Any] = _READERS.get(key, _text)
    try:
        return read(value)
    except ValueError as error:
        raise UsageError(f"{name}: {key} {error}") from error


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"is {value!r}; use a text")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, str) or not re.fullmatch(r"[1-9]\d*", value):
        raise ValueError(f"is {value!r}; use a whole number of at least 1")
    return int(value)


def _gpus(value: Any) -> int:
    if value not in ("0", "1"):
        raise ValueError(
            f"is {value!r}; use 0 or 1: a job drives one GPU; use more workers instead"
        )
    return int(value)


def _memory(value: Any) -> str:
    """An amount with its unit: a bare number would mean bytes, which nobody intends."""
    try:
        has_unit = not _text(value).strip()[-1:].isdigit() and parse_bytes(value) > 0
    except ValueError:
        has_unit = False
    if not has_unit:
        raise ValueError(f"is {value!r}; use an amount with its unit, like 32GB")
    return str(value)


def _seconds(value: Any) -> float:
    try:
        seconds = float(parse_timedelta(_text(value), default="s"))
    except (ValueError, KeyError):
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(f"is {value!r}; use a time like 600 (seconds) or 10 minutes")
    return seconds


def _walltime(value: Any) -> str:
    walltime_seconds(_text(value))
    return str(value)


def _lines(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"is {value!r}; use a list with one `- line` each")
    return tuple(_text(line) for line in value)


def _adapt(value: Any) -> Adapt:
    if not isinstance(value, dict) or not {"maximum"} <= set(value) <= {"minimum", "maximum"}:
        raise ValueError(f"is {value!r}; use {{minimum: 1, maximum: 8}}")
    return Adapt(**{key: _count(number) for key, number in value.items()})


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "workers": _count,
    "threads": _count,
    "cores": _count,
    "gpus": _gpus,
    "memory": _memory,
    "walltime": _walltime,
    "wait": _seconds,
    "directives": _lines,
    "prologue": _lines,
    "adapt": _adapt,
}
"""Parsers of the values by key; unlisted ones are texts."""
