"""What is in `integrations/` fits the package: versions, commands, options."""

from __future__ import annotations

import inspect
import json
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
import typer
import yaml
from packaging.requirements import Requirement

from embedseg_large.cli.app import app

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "integrations"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
COMMAND = "embedseg-large segment"


def text_of(name: str) -> str:
    return (FOLDER / name).read_text()


def options() -> set[str]:
    """The options of `segment`."""
    group: Any = typer.main.get_command(app)
    return {text for p in group.commands["segment"].params for text in p.opts}


def segment_is_called_with(text: str) -> set[str]:
    """The options after the name of the command, up to the end of a shell line."""
    lines = text.replace("\\\\\n", " ").replace("\\\n", " ").splitlines()
    calls = [line[line.index(COMMAND) :] for line in lines if COMMAND in line]
    assert calls
    return set(re.findall(r"(?<=\s)--[a-z-]+", " ".join(calls)))


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("container/Dockerfile", r"image\.version=\"([\d.]+)\""),
        ("container/embedseg-large.def", r"image\.version ([\d.]+)"),
        ("biomero/Dockerfile", r"FROM embedseg-large:([\d.]+)"),
        ("nextflow/main.nf", r"container 'embedseg-large:([\d.]+)'"),
        ("conda/recipe.yaml", r"\n  version: \"([\d.]+)\""),
        ("snakemake/environment.yaml", r"embedseg-large ==([\d.]+)"),
        ("galaxy/embedseg_large_segment.xml", r"\"@TOOL_VERSION@\">([\d.]+)<"),
        ("../CITATION.cff", r"\nversion: ([\d.]+)"),
    ],
)
def test_every_version_is_that_of_the_package(name: str, pattern: str) -> None:
    assert re.findall(pattern, text_of(name)) == [VERSION]


@pytest.mark.parametrize("name", ["nextflow/main.nf", "galaxy/embedseg_large_segment.xml"])
def test_options_that_are_given_exist(name: str) -> None:
    text = text_of(name)
    if name.endswith(".xml"):  # one option a line
        command = ElementTree.fromstring(text).findtext("command") or ""
        text = " ".join(command[command.index(COMMAND) :].split())
    assert segment_is_called_with(text) <= options()


def test_inputs_of_the_galaxy_tool_are_all_used() -> None:
    tool = ElementTree.fromstring(text_of("galaxy/embedseg_large_segment.xml"))
    command = tool.findtext("command") or ""
    for given in tool.findall("inputs/param"):
        name = given.get("name") or str(given.get("argument")).lstrip("-").replace("-", "_")
        assert f"${name}" in command, name
    for test in tool.findall("tests/test/param"):
        if test.get("ftype"):
            assert (FOLDER / "galaxy" / "test-data" / str(test.get("value"))).exists()


def test_the_biomero_wrapper_makes_commands_that_exist() -> None:
    command = runpy.run_path(str(FOLDER / "biomero" / "wrapper.py"))["command"]
    inputs = json.loads(text_of("biomero/descriptor.json"))["inputs"]
    parameters = [word for one in inputs for word in (f"--{one['id']}", "7")]
    folders = ["--infolder", "in", "--outfolder", "out", "--gtfolder", "gt", "--local"]
    words = command([*folders, *parameters, "-nmc"])
    assert words[:5] == ["embedseg-large", "segment", "in", "--out", "out"]
    given = {word for word in words if word.startswith("--")}
    assert given <= options()
    assert len(given) == len(inputs) + 1  # every parameter arrives
    assert command(folders)[5:] == ["--model", "nuclei-2d", "--channel", "0", "--tta", "none"]


def test_the_conda_recipe_requires_what_the_package_requires() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    recipe = yaml.safe_load(text_of("conda/recipe.yaml"))
    needed = {_conda_name(Requirement(text)) for text in project["dependencies"]}
    run = {text.split()[0]: text for text in recipe["requirements"]["run"]}
    assert set(run) == needed | {"python"}
    for text in project["dependencies"]:
        one = Requirement(text)
        assert run[_conda_name(one)].replace(" ", "") == f"{_conda_name(one)}{one.specifier}"
    assert recipe["about"]["license"] == project["license"]
    assert recipe["about"]["license_file"] == project["license-files"]
    assert run["python"] == "python >=${{ python_min }}"
    assert f">={recipe['context']['python_min']}" == project["requires-python"]


def _conda_name(requirement: Requirement) -> str:
    """What conda-forge calls a package of PyPI."""
    name = {"dask": "dask-core", "torch": "pytorch", "matplotlib": "matplotlib-base"}
    return name.get(requirement.name, requirement.name)


def test_containers_hold_all_that_the_package_is_built_from() -> None:
    built_from = {"constraints.txt", "pyproject.toml", "README.md", "LICENSE", "NOTICE"}
    for name in ("container/Dockerfile", "container/embedseg-large.def"):
        assert all(file in text_of(name) for file in built_from)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!{file}" for file in built_from | {"embedseg_large"}} <= set(ignored)


@pytest.mark.parametrize("name", ["container/Dockerfile", "biomero/Dockerfile"])
def test_dockerfiles_pass_hadolint(name: str) -> None:
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.exists():
        pytest.skip("hadolint is not installed")
    found = subprocess.run([linter, FOLDER / name], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_extras_of_the_containers_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name in ("container/Dockerfile", "container/embedseg-large.def"):
        (extras,) = re.findall(r"(?:EXTRAS=\"|extras=)([a-z0-9,]+)", text_of(name))
        assert set(extras.split(",")) <= set(project["optional-dependencies"])


@pytest.mark.parametrize(
    "name",
    ["nextflow/meta.yml", "snakemake/environment.yaml", "snakemake/meta.yaml", "conda/recipe.yaml"],
)
def test_descriptions_are_yaml(name: str) -> None:
    assert isinstance(yaml.safe_load(text_of(name)), dict)


def test_masks_of_a_snakemake_job_that_fails_are_no_output_that_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = list[str]()

    def shell(_: str) -> None:
        frame = inspect.currentframe()
        assert frame is not None
        assert frame.f_back is not None
        commands.append(frame.f_back.f_globals["command"])  # Snakemake formats it likewise
        if len(commands) == 1:
            raise RuntimeError

    module = ModuleType("snakemake.shell")
    module.shell = shell  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "snakemake", ModuleType("snakemake"))
    monkeypatch.setitem(sys.modules, "snakemake.shell", module)

    class Params(dict[str, str]):
        masks = str(tmp_path / "masks")

    done = tmp_path / "masks.done"
    job = SimpleNamespace(
        input=["images"], output=[str(done)], params=Params(), log_fmt_shell=lambda **_: ""
    )
    wrapper = str(FOLDER / "snakemake" / "wrapper.py")
    with pytest.raises(RuntimeError):
        runpy.run_path(wrapper, {"snakemake": job})
    assert not done.exists()
    runpy.run_path(wrapper, {"snakemake": job})
    assert done.exists()
    assert commands == [f"embedseg-large segment images --out {tmp_path / 'masks'}"] * 2
    assert "directory(" not in text_of("snakemake/Snakefile")
