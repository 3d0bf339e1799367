"""The record of a run in its folder, checked when it is read, because files may be damaged."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from embedseg_large.documents import parse_json
from embedseg_large.errors import EmbedSegError, UnreachableError, UsageError, foreign
from embedseg_large.runs.facts import Facts
from embedseg_large.storage.folder import Folder

RUN_FILE = "run.json"


def new_name() -> str:
    """Return a unique name for a run, of letters and digits."""
    return secrets.token_hex(8)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """The state of a run, for its later attempts and for `embedseg-large status`."""

    name: str
    """Name of this run, unique for its output."""
    labels: str | None = None
    """Path or URL of the labels that it writes; None: it writes an image."""
    overwrite: bool
    """Whether it may replace an older output."""
    token: str | None = None
    """Hash of `facts`."""
    facts: Facts
    """Everything that determines its output."""
    tasks: Mapping[str, int] = field(default_factory=dict)
    """Number of tasks of each stage, as far as known."""
    pending: str | None = None
    """Location of its labels before they are published."""
    shards: int | None = None
    """Number of tasks of the last stage."""

    def as_dict(self) -> dict[str, Any]:
        """Return the record as values that JSON can hold; unknown fields are left out."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        if not self.tasks:
            del values["tasks"]
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_dict(cls, values: Any) -> RunRecord:
        """Restore a record from `as_dict`; unknown keys are ignored.

        Raises
        ------
        TypeError
            If a value is missing or has another type.
        """
        if not isinstance(values, dict):
            raise TypeError("no JSON object")
        known = {name: values[name] for name in _KINDS if name in values}
        for name in ("name", "overwrite", "facts", *known):
            if type(known.get(name)) is not _KINDS[name]:
                raise TypeError(f"{name!r} is missing or no {_KINDS[name].__name__}")
        if not re.fullmatch(r"[a-z0-9-]+", known["name"]):
            raise TypeError("'name' is none of a run")
        if any(type(count) is not int for count in known.get("tasks", {}).values()):
            raise TypeError("'tasks' are no numbers")
        return cls(**known)


_KINDS: Mapping[str, type] = {
    "name": str,
    "labels": str,
    "overwrite": bool,
    "token": str,
    "facts": dict,
    "tasks": dict,
    "pending": str,
    "shards": int,
}


def read_record(folder: Folder) -> RunRecord | None:
    """Return the record in the folder of a run; None if there is no run.

    Raises
    ------
    UsageError
        If it is damaged; the message names the folder to remove.
    UnreachableError
        If it cannot be read.
    """
    where = f"{folder.path}/{RUN_FILE}"
    todo = f"start over with overwrite (--overwrite), or remove the folder {folder.path}"
    try:
        data = folder.read(RUN_FILE)
    except FileNotFoundError:
        return None
    except UnreachableError as error:
        if not isinstance(error.__cause__, ValueError):  # not a file of a document's size
            raise
        raise UsageError(f"{where}: not the record of a run ({error.__cause__}); {todo}") from error
    with foreign(where, "not the record of a run", todo=todo, kind=UsageError):
        return RunRecord.from_dict(parse_json(data))


def write_record(folder: Folder, record: RunRecord) -> None:
    """Replace the record in the folder of a run."""
    folder.write(RUN_FILE, _packed(record), durable=True)


def create_record(folder: Folder, record: RunRecord) -> bool:
    """Write the record of a new run; if a run exists, return False and write nothing."""
    return folder.create(RUN_FILE, _packed(record), durable=True)


def name_of_run(folder: Folder) -> str | None:
    """Name of the unfinished run in a folder; None if there is none, or its record is damaged."""
    try:
        record = read_record(folder)
    except EmbedSegError:
        return None
    return None if record is None else record.name


def _packed(record: RunRecord) -> bytes:
    return json.dumps(record.as_dict(), indent=1).encode()
