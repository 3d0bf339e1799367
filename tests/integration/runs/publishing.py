"""Kill a run, or put it to sleep, before each change that it makes to its disk or bucket.

::

    python publishing.py FOLDER kill fresh          killed at each step of the publication
    python publishing.py FOLDER kill overwrite      the same over older labels
    python publishing.py FOLDER sleep overwrite     stopped at each step, wakes when others are done
    python publishing.py s3://BUCKET/x kill fresh   the same in a bucket
    ... FIRST LAST STRIDE                           of these steps only

After a kill the same command must finish, and after a sleep the sleeper must change nothing: with
the labels of an undisturbed run, and nothing beside them. A program of its own: it forks, which is
safe only while nothing has begun a thread.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import embedseg_large as es
from embedseg_large.errors import RunError
from embedseg_large.labels.pending import PendingLabels
from embedseg_large.runs import lock
from embedseg_large.storage import disk
from embedseg_large.storage.bucket import RemoteFolder
from embedseg_large.storage.connection import is_remote
from embedseg_large.storage.open import folder_at
from embedseg_large.testing.oracle import OracleNetwork

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "shutil.rmtree")
REQUESTS = ("write", "_put_if", "copy", "_delete")
OVER, FOREIGN = "overwrite", "foreign"


def image() -> np.ndarray[Any, Any]:
    labels = np.zeros((1, 48, 48), np.uint16)
    labels[0, 4:14, 4:14], labels[0, 20:30, 18:30], labels[0, 36:45, 30:44] = 1, 2, 3
    return labels


def import_all(place: str) -> None:
    """Import once what every fork would import again: what a run has imported at its end."""
    names = Path(tempfile.mkdtemp(), "names")

    def run() -> None:
        segment(place, overwrite=True)
        names.write_text("\n".join(sys.modules))

    assert succeeded(run)
    for name in names.read_text().splitlines():
        with suppress(Exception):
            import_module(name)
    shutil.rmtree(names.parent)
    assert threading.active_count() == 1


def segment(place: str, overwrite: bool) -> None:
    labels = image()[0]
    es.segment(
        labels,
        OracleNetwork.of(labels),
        output=f"{place}/out.zarr",
        overwrite=overwrite,
        intensity_range=(0, 1),
        cluster_tile=(24, 24),
        halo=(12, 12),
    )


def halt_at(step: int, signal_: int, *, from_publication: bool) -> None:
    """Send this process a signal before the change of that number."""
    seen = -1 if from_publication else 0  # nothing counts yet
    publish = PendingLabels.publish

    def published(self: PendingLabels, *args: Any) -> None:
        nonlocal seen
        seen = 0 if seen < 0 else seen
        publish(self, *args)

    def changes() -> None:
        nonlocal seen
        if seen == step:
            seen += 1
            os.kill(os.getpid(), signal_)
        elif seen >= 0:
            seen += 1

    def audited(event: str, about: tuple[Any, ...]) -> None:
        opens = event == "open" and isinstance(about[2], int) and about[2] & os.O_WRONLY
        if event in CHANGES or opens:
            changes()

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            changes()
            return method(*args, **more)

        return call

    PendingLabels.publish = published  # type: ignore[method-assign, assignment]
    if REMOTE:
        for name in REQUESTS:
            setattr(RemoteFolder, name, counted(getattr(RemoteFolder, name)))
    else:
        sys.addaudithook(audited)


def forked(body: Callable[[], None]) -> int:
    """Process that runs the body: its exit status is 3 for an error of a run that was lost."""
    pid = os.fork()
    if pid == 0:
        code = 1
        lock.BEAT_SECONDS, disk.LOCK_SECONDS = 0.2, 1.0
        try:
            body()
            code = 0
        except RunError:
            code = 3
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def ended(pid: int, options: int = 0) -> int:
    return os.waitpid(pid, options)[1]


def succeeded(body: Callable[[], None]) -> bool:
    return ended(forked(body)) == 0


def stored(place: str) -> dict[str, str]:
    """Hash of every object at a place, apart from what says when it was made."""
    read, end = os.pipe()

    def look() -> None:  # in a process of its own: connections have threads
        folder = folder_at(place)
        lines = [f"{n} {hashlib.sha256(folder.read(n)).hexdigest()}" for n in folder.names()]
        with os.fdopen(end, "w") as file:
            file.write("\n".join(lines))

    pid = forked(look)
    os.close(end)
    with os.fdopen(read) as file:
        lines = file.read().splitlines()
    assert ended(pid) == 0
    return dict(line.rsplit(" ", 1) for line in lines)


def voxels(files: dict[str, str]) -> dict[str, str]:
    """Of these, chunks of labels and of the table; in a bucket names tell the run."""
    import re

    chunks = {n: h for n, h in files.items() if "/c/" in n}
    return {re.sub(r"-[0-9a-f]{8}/", "/", n): h for n, h in chunks.items()}


def beside(files: dict[str, str]) -> list[str]:
    """What is there besides the store, and hidden things in it."""
    return [n for n in files if not n.startswith("out.zarr/") or "/." in n]


def emptied(place: str, older: str) -> None:
    """Clear a place, or put labels there that are in the way."""

    def clear() -> None:
        folder_at(place).remove_all()
        if older:
            segment(place, overwrite=False)
        if older == FOREIGN:  # painted by hand
            file = Path(place, "out.zarr/labels/nuclei/zarr.json")
            document = json.loads(file.read_text())
            del document["attributes"]["embedseg_large"]
            file.write_text(json.dumps(document))

    if not REMOTE:
        shutil.rmtree(place, ignore_errors=True)
        Path(place).mkdir(parents=True)
    assert succeeded(clear)


def killed(place: str, step: int, older: str, wanted: dict[str, str]) -> bool:
    """Kill a run at a step and give the same command again; False: it ended before."""
    over = bool(older)

    def run() -> None:
        halt_at(step, signal.SIGKILL, from_publication=True)
        segment(place, over)

    emptied(place, older)
    status = ended(forked(run))
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0
        return False
    left = [n for n in stored(place) if n.endswith("run.json")]
    if left:
        assert succeeded(lambda: segment(place, over)), f"after step {step}"
    else:  # the run was at its end: all that may be left is the lock of a dead process
        lock_of_dead = f"{place}/.out.zarr-nuclei.lock"
        assert succeeded(lambda: folder_at(lock_of_dead).remove_all())
    check(place, step, older, wanted)
    return True


def slept(place: str, step: int, older: str, wanted: dict[str, str]) -> bool:
    """Stop a run at a step, let another finish, and wake it; False: it ended before."""

    def run() -> None:
        halt_at(step, signal.SIGSTOP, from_publication=False)
        segment(place, overwrite=True)

    emptied(place, older)
    sleeper = forked(run)
    status = ended(sleeper, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        assert status == 0
        return False
    # else it takes the lock when it wakes, and runs after the other one
    has_begun = any(file.name.isdigit() for file in Path(place).glob(".*.lock/*"))
    try:
        took_over = succeeded(lambda: segment(place, overwrite=True))
        before = stored(place)
    finally:
        os.kill(sleeper, signal.SIGCONT)
        code = os.waitstatus_to_exitcode(ended(sleeper))
    after = stored(place)
    assert code in (0, 3), (step, code)  # done, or one line that says who took over
    changed = {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)}
    print("    sleeper ended with", code, "and changed", sorted(changed))  # noqa: T201
    if took_over:
        assert not (has_begun and changed), (step, sorted(changed))
    else:  # it slept while it had the labels folder to itself, and has published when it woke
        assert succeeded(lambda: segment(place, overwrite=True)), f"after step {step}"
    check(place, step, older, wanted)
    return True


def check(place: str, step: int, older: str, wanted: dict[str, str]) -> None:
    files = stored(place)
    kept = {n: h for n, h in files.items() if ".bak" in n}
    rest = {n: h for n, h in files.items() if n not in kept}
    assert voxels(rest) == wanted, (step, sorted(rest))
    assert not beside(rest), (step, beside(rest))
    assert (older == FOREIGN) == bool(kept), (step, sorted(kept))
    names = ["nuclei", *(["nuclei.bak"] if kept else [])]

    def listed() -> None:
        from embedseg_large.labels.published import label_names

        assert label_names(f"{place}/out.zarr") == names, (step, label_names(f"{place}/out.zarr"))
        for name in names:
            assert int((es.open_volume(f"{place}/out.zarr/labels/{name}").data > 0).sum()) > 0

    assert succeeded(listed)


def main(
    place: str, how: str, older: str, first: int = 0, last: int = 10**6, stride: int = 1
) -> None:
    older = "" if older == "fresh" else older
    emptied(place, "")
    import_all(place)
    emptied(place, "")
    assert succeeded(lambda: segment(place, overwrite=False))
    wanted = voxels(stored(place))
    assert wanted
    step = first
    while step <= last and {"kill": killed, "sleep": slept}[how](place, step, older, wanted):
        print(step, how, flush=True)  # noqa: T201
        step += stride
    print("all" if step <= last else "these", "steps passed:", (step - first) // stride)  # noqa: T201


if __name__ == "__main__":
    REMOTE = is_remote(sys.argv[1])
    PLACE, HOW, OLDER, *STEPS = sys.argv[1:]
    main(PLACE, HOW, OLDER, *map(int, STEPS))
