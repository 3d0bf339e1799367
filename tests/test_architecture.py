"""Who may import whom, file by file: storage, networks and tiles know nothing of each other."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "embedseg_large"
ROOT = Path(__file__).parents[1] / PACKAGE
VALUES = {"documents", "errors", "files", "geometry", "symmetry", "fields", "embedding"}
VALUES |= {"contrast", "extras", "options", "voting"}
BELOW = {"clustering", "labels", "methods", "network", "runs"}
BELOW |= {"stitching", "storage", "tiling", "volumes"}
"""All that a segmentation is made of."""
MAY_IMPORT: dict[str, set[str]] = {
    "contrast": set(),
    "errors": set(),
    "extras": {"errors"},
    "documents": set(),
    "files": set(),
    "geometry": set(),
    "symmetry": {"errors"},
    "fields": {"errors", "symmetry"},
    "embedding": {"errors", "fields", "symmetry"},
    "options": {"errors"},
    "voting": set(),
    "models": set(),
    "storage": VALUES,
    "tiling": VALUES,
    "clustering": VALUES,
    "stitching": VALUES,
    "synthesis": {"documents", "errors", "files", "geometry"},
    "testing": VALUES,
    "volumes": VALUES | {"storage"},
    "labels": VALUES | {"storage", "volumes"},
    "network": VALUES | {"models"},
    "methods": VALUES | {"clustering", "network", "stitching"},
    "runs": VALUES | {"storage"},
    "conversion": VALUES | {"runs", "storage", "volumes"},
    "evaluation": VALUES | {"labels", "runs", "storage", "volumes"},
    "measurement": VALUES | {"evaluation", "labels", "runs", "storage", "volumes"},
    "review": VALUES | {"labels", "measurement", "runs", "storage", "volumes"},
    "segmentation": VALUES | BELOW | {"conversion"},
    "exporting": VALUES | {"labels", "measurement", "runs", "storage", "volumes"},
    "tracking": VALUES | {"exporting", "labels", "measurement", "runs", "storage", "volumes"},
    "batch": VALUES
    | {"exporting", "labels", "pictures", "runs", "segmentation", "storage", "volumes"},
    "pictures": VALUES | {"evaluation"},
    "training": VALUES
    | {"clustering", "evaluation", "methods", "network", "review", "storage", "synthesis"}
    | {"tiling", "volumes"}
    | {"pictures"},  # a sheet each few epochs
    "data": VALUES | {"conversion", "labels", "volumes"},
    "viewing": VALUES | {"labels", "pictures", "storage", "volumes"},
    "reporting": VALUES
    | BELOW
    | {"evaluation", "measurement", "models", "pictures", "segmentation", "viewing"},
    "comparison": VALUES
    | BELOW
    | {"evaluation", "pictures", "reporting", "segmentation", "training"},
    "napari": VALUES | BELOW | {"data", "models", "review", "segmentation", "training"},
    "cli": VALUES
    | BELOW
    | {"batch", "comparison", "exporting"}
    | {"conversion", "data", "evaluation", "measurement", "models", "pictures", "reporting"}
    | {"review", "segmentation", "synthesis", "tracking", "training", "viewing"},
    "adapters": {"errors", "segmentation"},
    "__main__": {"cli"},
}
"""Of a room, or of a file beside the rooms, which others its files may import."""
USERS = {
    "distributed": {"runs/dask"},
    "torch": {"methods", "network", "training"},
    "bioimage_cpp": {"methods"},
    "sklearn": {"network"},
    "tornado": {"viewing"},
    "magicgui": {"napari"},
    "napari": {"napari"},
    "qtpy": {"napari"},
}
"""Who may import a library that is slow to load or easily spreads."""
EXCEPTIONS = {
    ("segmentation/segment.py", "distributed"): "the type of an argument of `segment`",
}
"""File and what it imports all the same, with the reason."""


def modules() -> list[Path]:
    return sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if file_of(name) else node.module


def file_of(module: str) -> Path | None:
    """The file of a module of ours, if there is one."""
    path = ROOT.parent / module.replace(".", "/")
    found = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in found if file.exists()), None)


def forbidden(path: Path) -> set[str]:
    """Rooms and libraries that a file imports and may not."""
    name = name_of(path)
    room = name.split("/")[0].removesuffix(".py")
    wrong = set()
    for module in imports(path):
        root, *rest = module.split(".")
        if root == PACKAGE and rest and rest[0] not in MAY_IMPORT[room] | {room}:
            wrong.add(rest[0])
        if root in USERS and not any(name.startswith(f"{user}/") for user in USERS[root]):
            wrong.add(root)
    return wrong


def circles() -> set[frozenset[str]]:
    """Files that import each other, in a chain or directly."""
    arrows = {
        name_of(path): {
            name_of(file)
            for module in imports(path)
            if module.startswith(f"{PACKAGE}.") and (file := file_of(module))
        }
        for path in modules()
    }
    found = set()
    while True:
        try:
            TopologicalSorter(arrows).prepare()
        except CycleError as error:
            circle = frozenset(error.args[1])
            found.add(circle)
            for name in circle:
                arrows[name] -= circle
        else:
            return found


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_file_imports_only_what_it_may(path: Path) -> None:
    excused = {what for name, what in EXCEPTIONS if name == name_of(path)}
    assert forbidden(path) == excused


def test_files_import_each_other_in_no_circle() -> None:
    assert not circles()


def test_no_file_prints() -> None:
    for path in modules():
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        names = [c.func.id for c in calls if isinstance(c.func, ast.Name)]
        assert "print" not in names, path
