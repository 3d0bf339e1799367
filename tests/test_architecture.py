"""Who may import whom: tiles, networks and files know nothing of each other."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "embedseg_large"
FOUNDATION = {"errors", "geometry", "symmetry", "embedding", "resampling"}
LEAVES = {"io", "tiling", "network", "clustering", "stitching", "metrics", "measurement"}
MAY_IMPORT = {
    "errors": set(),
    "geometry": set(),
    "symmetry": {"errors"},
    "embedding": {"errors", "symmetry"},
    "resampling": {"geometry"},
    "models": set(),
    "data": FOUNDATION | {"io"},
    "pictures": FOUNDATION | {"metrics"},
    **dict.fromkeys(LEAVES - {"network"}, FOUNDATION),
    "network": FOUNDATION | {"models"},
    "synthesis": {"errors", "geometry"},
    "training": FOUNDATION
    | LEAVES - {"stitching"}
    | {"pictures", "synthesis"},  # a sheet each few epochs
    "testing": FOUNDATION,
    "engine": FOUNDATION | LEAVES,
    "viewing": FOUNDATION | {"io", "pictures"},
    "reporting": FOUNDATION | {"engine", "io", "models", "network", "pictures", "viewing"},
    "napari": FOUNDATION | LEAVES | {"data", "engine", "models", "training"},
    "__main__": {"cli"},
    "cli": FOUNDATION
    | LEAVES
    | {"engine", "data", "models", "pictures"}
    | {"reporting", "training", "viewing"},
}
USERS = {
    "distributed": {"engine"},
    "torch": {"network", "training"},
    "tornado": {"viewing"},
    "magicgui": {"napari"},
    "napari": {"napari"},
    "qtpy": {"napari"},
}
"""Who may import a library that is slow to load or easily spreads."""


def modules() -> list[Path]:
    return sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            yield node.module


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_what_it_may(path: Path) -> None:
    part = part_of(path)
    allowed = MAY_IMPORT[part] | {part}
    for name in imports(path):
        root, *rest = name.split(".")
        if root == "embedseg_large" and rest:
            assert rest[0] in allowed, f"{part} may not import {rest[0]}"
        if root in USERS:
            assert part in USERS[root], f"{part} may not import {root}"


def test_no_module_prints() -> None:
    for path in modules():
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        names = [c.func.id for c in calls if isinstance(c.func, ast.Name)]
        assert "print" not in names, path
