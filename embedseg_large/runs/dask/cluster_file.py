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
import reprlib
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, TypeAlias

import yaml
from dask.utils import parse_bytes, parse_timedelta
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)

from embedseg_large.documents import read_document
from embedseg_large.errors import UsageError, foreign, without_logins
from embedseg_large.runs.devices import THREADS_BESIDE_GPU

MOST_WORKERS = 2**31
"""Number of workers that a request may have."""
_WALLTIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<clock>\d+(?::\d+){0,2})")


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


def _parsed(parse: Callable[[Any], Any], text: Any) -> float:
    """Call a parser of Dask, which may raise anything for an invalid text.

    Raises
    ------
    ValueError
        If the result is not positive, or the text is invalid.
    """
    try:
        value = float(parse(text))
    except Exception as error:
        raise ValueError("nothing of the kind") from error
    if not 0 < value < math.inf:
        raise ValueError("not positive")
    return value


def _has_unit(text: str) -> str:
    """Require a unit: a bare number would mean bytes, which is never intended."""
    if not text.strip() or text.strip()[-1].isdigit():
        raise ValueError("no unit")
    _parsed(parse_bytes, text)
    return text


def _is_walltime(text: str) -> str:
    walltime_seconds(text)
    return text


def _seconds(value: Any) -> float:
    return _parsed(lambda text: parse_timedelta(text, default="s"), value)


Count: TypeAlias = Annotated[PositiveInt, Field(le=MOST_WORKERS)]
Text: TypeAlias = Annotated[str, Field(min_length=1)]
Memory: TypeAlias = Annotated[Text, AfterValidator(_has_unit)]
Seconds: TypeAlias = Annotated[float, BeforeValidator(_seconds)]
Walltime: TypeAlias = Annotated[Text, AfterValidator(_is_walltime)]

_NUMBER = "use a whole number of at least 1"
_LINES = "use a list with one `- line` each"
_ADVICE: Mapping[str, str] = {
    **dict.fromkeys(("workers", "threads", "cores"), _NUMBER),
    **dict.fromkeys(("directives", "prologue"), _LINES),
    "adapt": "use {minimum: 1, maximum: 8}",
    "gpus": "use 0 or 1: a job drives one GPU; use more workers instead",
    "memory": "use an amount with its unit, like 32GB",
    "wait": "use a time like 600 (seconds) or 10 minutes",
    "walltime": "use a time like 12:00:00 or 2-00:00:00",
}
"""Hint for the value of a key; for all others, a text is expected."""


class Adapt(BaseModel):
    """As many workers as there is work for, within limits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minimum: Count = 1
    """At least one, for the check at the start of a run."""
    maximum: Count

    @model_validator(mode="after")
    def _check(self) -> Adapt:
        if self.maximum < self.minimum:
            raise ValueError(f"has a maximum of {self.maximum} below its minimum {self.minimum}")
        return self


class _Settings(BaseModel):
    """Settings common to all kinds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str = "cluster settings"
    """File of the settings, for messages."""
    wait: Seconds = 60
    """Seconds within which the first worker must start."""

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Leave out fields that may hold secrets."""
        for name, value in super().__repr_args__():
            yield name, without_logins(value) if isinstance(value, str) else value


class _Numbered(_Settings):
    """Settings with a number of workers, fixed or adaptive."""

    workers: Count | None = None
    """Number of processes or jobs; exactly one of `workers` and `adapt` is given."""
    adapt: Adapt | None = None
    """Adaptive number of workers, according to the work."""

    @model_validator(mode="after")
    def _check(self) -> _Numbered:
        if (self.workers is None) == (self.adapt is None):
            raise ValueError("use either workers: 4 or adapt: {minimum: 1, maximum: 4}")
        return self


class LocalSettings(_Numbered):
    """``kind: local``: processes on this machine."""

    threads: Count = 1
    """Number of tasks that a process runs at a time."""
    memory: Memory | None = None
    """Memory of each process, beyond which it is restarted; default: an equal share."""


class CudaSettings(_Settings):
    """``kind: cuda``: one process per GPU of this machine, by dask-cuda."""

    workers: Count | None = None
    """Number of GPUs; default: all in CUDA_VISIBLE_DEVICES, or all there are."""
    threads: Count = THREADS_BESIDE_GPU
    """Number of tasks that a process runs at a time: one is on the GPU, a few read or write its
    next or last tiles, the others cluster and finish."""
    memory: Memory | None = None
    """Main memory of each process, beyond which it is restarted; default: an equal share."""


class SlurmSettings(_Numbered):
    """``kind: slurm``: jobs, by dask-jobqueue."""

    cores: Count
    """Cores per job. With a GPU, a job is one process with this many threads, otherwise this many
    processes."""
    memory: Memory
    """Main memory per job."""
    walltime: Walltime
    """Time limit of a job, in sbatch's format. Jobs that reach it are replaced by new ones."""
    gpus: int = Field(default=0, ge=0, le=1)
    """GPUs per job, 0 or 1."""
    queue: Text | None = None
    """Partition."""
    account: Text | None = None
    directives: tuple[Text, ...] = Field(default=(), repr=False)
    """Additional options of sbatch. One that requests GPUs replaces ours, ``--gres=gpu:1``."""
    prologue: tuple[Text, ...] = Field(default=(), repr=False)
    """Shell commands of a job before the worker starts: ``module load cuda``."""
    python: Text | None = None
    """Python of the workers; default: the current one."""
    interface: Text | None = None
    """Network interface of workers and scheduler: ``ib0``."""
    local_folder: Text | None = None
    """Fast folder of a node for temporary files of Dask."""
    log_folder: Text = "slurm-logs"
    """Folder for the output of jobs; created if missing."""
    wait: Seconds = 600

    @property
    def walltime_seconds(self) -> int:
        """The time limit of a job, in seconds."""
        return walltime_seconds(self.walltime)


class SchedulerSettings(_Settings):
    """``kind: scheduler``: a running Dask scheduler with its workers."""

    address: Text = Field(repr=False)  # may contain a password
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
        given = "missing" if kind is None else _word(kind)
        raise UsageError(f"{name}: kind is {given}; use one of {', '.join(_KINDS)}")
    try:
        if "file" in found:  # not a key for users
            found["file "] = found.pop("file")
        return _KINDS[kind](file=name, **found)
    except ValidationError as error:
        raise UsageError(f"{name}: {_mistake(error, kind)}") from None


def _mapping(name: str) -> dict[str, Any]:
    """The keys of a file and their values: text, lists and mappings.

    The base loader does not convert text. YAML itself would read ``12:00:00`` as 43200, an
    account ``0123`` as 83 and a partition ``on`` as true.
    """
    with foreign(name, "cannot be read", todo="pass a YAML file", kind=UsageError):
        try:
            found = yaml.load(read_document(name).decode(), Loader=yaml.BaseLoader)
        except FileNotFoundError as error:
            raise UsageError(
                f"{name}: cannot be read ({error.strerror}); pass a YAML file"
            ) from error
        except yaml.MarkedYAMLError as error:  # its text quotes the file, which may hold secrets
            mark = error.problem_mark or error.context_mark
            where = "" if mark is None else f" in line {mark.line + 1}, column {mark.column + 1}"
            raise UsageError(f"{name}: not YAML{where}: {error.problem}") from None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise UsageError(f"{name}: not a list of keys with values, like `kind: local`")
    return found


def _mistake(error: ValidationError, kind: str) -> str:
    """Describe the first mistake: an unknown key before a missing one before an invalid value."""
    ranks = {"extra_forbidden": 0, "missing": 1}
    errors = error.errors(include_url=False)
    first = min(errors, key=lambda e: ranks.get(e["type"], 2) if len(e["loc"]) == 1 else 2)
    known = _KINDS[kind].model_fields
    if not first["loc"]:
        return str(first.get("ctx", {}).get("error", first["msg"]))
    key = str(first["loc"][0]).strip()
    if len(first["loc"]) == 1 and first["type"] == "extra_forbidden":
        names = [name for name in known if name != "file"]
        near = difflib.get_close_matches(key, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(names)}"
        return f"kind {kind} has no key {_short(key)[1:-1]}; {hint}"
    if len(first["loc"]) == 1 and first["type"] == "missing":
        return f"kind {kind} needs the key {key}"
    if first["type"] == "value_error" and "maximum" in str(first["ctx"]["error"]):
        return f"{key} {first['ctx']['error']}"
    return f"{key} is {_short(first['input'])}; {_ADVICE.get(key, 'use a text')}"


def _word(value: Any) -> str:
    """Quote a word; anything else may hold a password, such as an address in a damaged file."""
    is_word = isinstance(value, str) and re.fullmatch(r"[\w-]{1,24}", value)
    return _short(value) if is_word else "not a word"


def _short(value: Any) -> str:
    """Return a value as written; a deep or long one is truncated."""
    return reprlib.repr(value)
