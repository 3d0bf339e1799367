"""The figures of the house: how long things are, and which files one volume passes.

``python scripts/house.py`` prints lines per room, the largest folders, long modules and functions,
functions with many parameters, and names that stand twice. ``python scripts/house.py walk``
segments the embryo that comes with the package, in this process, and prints the files it passes
from `segment` to labels on disk, in the order of their first call.

A file is on the walk if one of its functions is called with the volume, with a value that holds it
(a request, a job, a task), or with voxels: image, predictions or labels. A return is a call into a
file that came earlier; a climb is a call from a room into one that may import it.
"""

from __future__ import annotations

import ast
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "embedseg_large"
MANY_PARAMETERS, LONG_MODULE, LARGE_FOLDER, LARGE_ROOM = 7, 300, 20, 0.15
VOXELS = 1000
"""An array of so many numbers is no longer a detail."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> Iterator[tuple[str, str]]:
    """Each module's path inside the package, and its text."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), path.read_text()


def functions(text: str) -> Iterator[Function]:
    """All functions of a module, methods and inner ones included."""
    yield from (n for n in ast.walk(ast.parse(text)) if isinstance(n, Function))


def parameters(function: Function) -> int:
    """How many parameters a caller may give: without self, and `**options` as one."""
    given = function.args
    named = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    rest = [a for a in (given.vararg, given.kwarg) if a is not None]
    return len([n for n in named if n not in ("self", "cls")]) + len(rest)


def print_sizes() -> None:
    """Print what can be counted without running anything."""
    rooms, folders, modules = Counter[str](), Counter[str](), Counter[str]()
    lengths, many = dict[str, int](), dict[str, int]()
    classes = defaultdict[str, list[str]](list)
    for name, text in sources():
        lines = text.count("\n")
        rooms[name.split("/")[0]] += lines
        folders[str(Path(name).parent)] += 1
        modules[name] = lines
        for one in functions(text):
            lengths[f"{name}: {one.name}"] = (one.end_lineno or 0) - one.lineno + 1
            many[f"{name}: {one.name}"] = parameters(one)
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef):
                classes[node.name].append(name)
    total = sum(rooms.values())
    print(f"{total:,} lines in {len(modules)} modules")
    for room, lines in rooms.most_common():
        print(f"  {lines:6,} {lines / total:6.1%}  {room}{' (!)' * (lines > LARGE_ROOM * total)}")
    print("largest folders:", ", ".join(f"{n} {count}" for n, count in folders.most_common(5)))
    long = [f"{n} {lines}" for n, lines in modules.most_common() if lines > LONG_MODULE]
    print(f"{len(long)} modules over {LONG_MODULE} lines:", ", ".join(long))
    longest = max(lengths, key=lengths.__getitem__)
    print(
        f"functions: median {median(lengths.values()):g} lines, "
        f"longest {lengths[longest]} ({longest})"
    )
    over = sorted(
        (n for n in many if many[n] > MANY_PARAMETERS), key=many.__getitem__, reverse=True
    )
    print(f"{len(over)} functions over {MANY_PARAMETERS} parameters:")
    for one in over:
        print(f"  {many[one]:3} {one}")
    twice = {name: where for name, where in classes.items() if len(where) > 1}
    print(f"{len(twice)} class names stand twice:", ", ".join(sorted(twice)))


class Walk:
    """Follows a volume through calls of the functions of the package."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        """From which file into which."""
        self._carries: dict[int, bool] = {}

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Note a call, if what is given is the volume or has it."""
        if event != "call" or frame.f_code.co_name.startswith("<"):
            return
        here = _file(frame)
        if here is None:
            return
        before = frame.f_back
        while before is not None and _file(before) is None:
            before = before.f_back
        count = frame.f_code.co_argcount + frame.f_code.co_kwonlyargcount
        given = (frame.f_locals.get(n) for n in frame.f_code.co_varnames[:count])
        if before is not None and any(_carries(value) for value in given):
            self.calls.append((_file(before) or "", here))

    def print(self) -> None:
        """Print the files, returns and climbs."""
        sys.path.insert(0, str(ROOT / "tests"))
        from test_architecture import MAY_IMPORT

        files = list(dict.fromkeys(file for call in self.calls for file in call))
        steps = list(dict.fromkeys(call for call in self.calls if call[0] != call[1]))
        first = {file: i for i, file in enumerate(files)}
        back = sum(first[b] < first[a] for a, b in steps)
        room = {file: file.split("/")[0].removesuffix(".py") for file in files}
        climbs = [(a, b) for a, b in steps if room[a] in MAY_IMPORT.get(room[b], ())]
        print(f"{len(files)} files, {len(steps)} steps, {back} returns, {len(climbs)} climbs")
        for file in files:
            print(f"  {file}")
        for a, b in climbs:
            print(f"  climb: {a} -> {b}")


def _file(frame: FrameType) -> str | None:
    name = frame.f_code.co_filename
    return name[len(str(PACKAGE)) + 1 :] if name.startswith(str(PACKAGE)) else None


def _carries(value: Any, depth: int = 3) -> bool:
    """Whether a value is a volume or voxels, or holds them."""
    from numpy import ndarray

    from embedseg_large.volumes.volume import Volume

    if isinstance(value, Volume):
        return True
    if isinstance(value, ndarray):
        return bool(value.size >= VOXELS)
    if depth and isinstance(value, tuple):
        return any(_carries(v, depth - 1) for v in value[:8])
    if depth and is_dataclass(value) and not isinstance(value, type):
        held = (getattr(value, f.name, None) for f in fields(value))
        return any(_carries(v, depth - 1) for v in held if not isinstance(v, ndarray))
    return False


def print_walk() -> None:
    """Segment the embryo that comes with the package, and print which files it passed."""
    from embedseg_large.data import copy_demo
    from embedseg_large.network.checkpoint import load_model
    from embedseg_large.segmentation.segment import segment

    walk = Walk()
    model = load_model("nuclei-3d").to(lanes=1)  # the profile follows one thread
    with tempfile.TemporaryDirectory() as folder:
        store = copy_demo(Path(folder, "embryo.ome.zarr"))
        sys.setprofile(walk)
        try:
            segment(str(store.image), model, tta="none", tile=(64, 72, 72))
        finally:
            sys.setprofile(None)
    walk.print()


if __name__ == "__main__":
    print_walk() if sys.argv[1:] == ["walk"] else print_sizes()
