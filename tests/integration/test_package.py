"""Wheel and sdist hold what a user needs, and the wheel installs into an empty environment."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
NEEDED = {
    "embedseg_large/__init__.pyi",
    "embedseg_large/py.typed",
    "embedseg_large/models/nuclei-2d.safetensors",
    "embedseg_large/models/nuclei-3d.safetensors",
    "embedseg_large/data/blastocyst.ome.tif",
    "embedseg_large/napari/napari.yaml",
    "embedseg_large/reporting/templates/page.html",
    "embedseg_large/viewing/page.html",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist."""
    pytest.importorskip("hatchling")
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "--directory", str(out)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return out


def one(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


@pytest.mark.slow
def test_the_wheel_holds_code_weights_and_licences_and_nothing_else(built: Path) -> None:
    names = set(ZipFile(one(built, "*.whl")).namelist())
    assert names >= NEEDED
    assert {name.partition("/")[0] for name in names} == {
        "embedseg_large",
        one(built, "*.whl").name.partition("-py3")[0] + ".dist-info",
    }
    licences = [name.rpartition("/")[2] for name in names if "/licenses/" in name]
    assert sorted(licences) == ["LICENSE", "NOTICE"]


@pytest.mark.slow
def test_the_sdist_holds_what_the_wheel_is_built_from(built: Path) -> None:
    with tarfile.open(one(built, "*.tar.gz")) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert names >= NEEDED | {"pyproject.toml", "README.md", "CITATION.cff", "constraints.txt"}
    assert not [name for name in names if name.startswith((".ci/", ".training"))]


@pytest.mark.slow
def test_the_wheel_installs_into_an_empty_environment(built: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    python = str(tmp_path / "bare" / "bin" / "python")
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*install, str(one(built, "*.whl"))], check=True, capture_output=True)
    code = (
        "from importlib.metadata import distribution\n"
        "d = distribution('embedseg-large')\n"
        "print(d.version, *sorted(e.name for e in d.entry_points))\n"
        "print(sum(f.locate().stat().st_size for f in d.files if f.suffix == '.safetensors'))\n"
    )
    run = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    about, weights = run.stdout.splitlines()
    assert about.split()[1:] == ["embedseg-large", "embedseg-large"]
    assert int(weights) > 10_000_000
    assert (tmp_path / "bare" / "bin" / "embedseg-large").exists()
