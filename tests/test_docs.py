"""The docs say what is so: commands, options, names, links and notebooks are the package's."""

import ast
import json
import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import embedseg_large as es

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MADE = ("_build", "cli", "generated")  # folders of pages that a build makes
ANYWHERE = {"--help", "--version", "--install-completion", "--show-completion"}
SOURCES = sorted((DOCS / "tutorials" / "sources").glob("*.md"))


def pages() -> list[Path]:
    found = [p for p in DOCS.rglob("*.md") if not set(MADE) & set(p.relative_to(DOCS).parts)]
    return sorted([*found, ROOT / "README.md"])


def test_links_between_pages_work_in_the_repository_too() -> None:
    """A role of Sphinx would be shown as text there; what a build makes has no file to link to."""
    made = "{doc}`Command line <cli/index>`"
    assert [p.name for p in pages() if "{doc}" in p.read_text().replace(made, "")] == []


def program(name: str) -> ModuleType:
    """A program of the docs, which is in no package."""
    for folder in (DOCS, DOCS / "_ext"):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    return import_module(name)


@cache
def options() -> dict[str, set[str]]:
    """The options of every command."""
    commands = program("commandline").commands()
    return {
        name: {text for p in command.params for text in (*p.opts, *p.secondary_opts)} | ANYWHERE
        for name, command in commands.items()
    }


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """Code blocks of a page."""
    wanted = "|".join(map(re.escape, languages))
    text = page.read_text()
    for found in re.finditer(rf"^```(?:{wanted})\n(.*?)^```", text, re.M | re.S):
        yield found[1]


def calls(page: Path) -> Iterator[list[str]]:
    """Calls of our program in the shell blocks of a page, as words."""
    for block in blocks(page, "sh", "bash", "console", "{code-cell}\n%%bash"):
        for line in block.replace("\\\n", " ").splitlines():
            begin = line.find("embedseg-large ")
            if begin >= 0 and "pip " not in line and "git " not in line:
                yield shlex.split(re.split(r"[|&;<]| > ", line[begin:])[0], comments=True)[1:]


def relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_every_command_has_a_page() -> None:
    made = dict(program("commandline").pages())
    assert set(made) == {"index", *options()}
    for name in options():
        assert f"`{name} <{name}>`" in made["index"]


def test_every_option_is_on_the_page_of_its_command() -> None:
    commandline = program("commandline")
    for name, command in commandline.commands().items():
        text = commandline.page(name, command)
        for parameter in command.params:
            if parameter.name != "help" and not parameter.hidden:
                first = str(parameter.opts[0])
                shown = first if first.startswith("-") else str(parameter.metavar or first.upper())
                assert f"`{shown}" in text, f"{name}: {shown}"


def test_a_command_says_where_to_read_more() -> None:
    for command, page in program("commandline").GUIDES.items():
        assert command in options()
        assert exists(DOCS / page), page


def test_every_public_name_is_in_the_reference() -> None:
    listed = set((DOCS / "reference" / "api.md").read_text().split())
    assert set(es.__all__) <= listed


@pytest.mark.parametrize("page", pages(), ids=relative)
def test_commands_in_the_docs_can_be_given(page: Path) -> None:
    for words in calls(page):
        command = next((word for word in words if not word.startswith("-")), None)
        if command is None:
            assert set(words) <= ANYWHERE, words
            continue
        assert command in options(), f"there is no command {command}: {' '.join(words)}"
        given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert given <= options()[command], f"{given - options()[command]}: {' '.join(words)}"


@pytest.mark.parametrize("page", pages(), ids=relative)
def test_python_in_the_docs_uses_public_names(page: Path) -> None:
    for block in blocks(page, "python"):
        code = re.sub(r"^(>>> |\.\.\. )", "", block, flags=re.M) if ">>>" not in block else ""
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "es":
                assert node.attr in es.__all__, f"es.{node.attr}"


@pytest.mark.parametrize("page", pages(), ids=relative)
def test_links_lead_somewhere(page: Path) -> None:
    folder = DOCS / "tutorials" if page in SOURCES else page.parent  # the notebook stands there
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (folder / target).exists(), target


def test_files_and_names_on_the_page_for_contributors_are_there() -> None:
    """Each step of docs/design/where.md names files, and names that stand in one of them."""
    steps = re.split(r"\n(?=\d\. |#|\n)", (DOCS / "design" / "where.md").read_text())
    seen = 0
    for step in steps:
        quoted = re.findall(r"`([^`\s]+)`", step)
        files = [ROOT / text for text in quoted if re.fullmatch(r"[\w/.-]+/[\w.-]+|\w+\.\w+", text)]
        missing = [str(file) for file in files if not file.exists()]
        assert not missing, f"{missing} in: {step}"
        texts = [file.read_text() for file in files if file.is_file()]
        if re.match(r"\d\. `", step):
            names = [text for text in quoted if re.fullmatch(r"_?[A-Za-z]+", text)]
            lost = [name for name in names if not any(re.search(rf"\b{name}\b", t) for t in texts)]
            assert not lost, f"{lost} in: {step}"
            seen += 1
    assert seen > 30


@pytest.mark.parametrize("page", pages(), ids=relative)
def test_references_to_pages_lead_somewhere(page: Path) -> None:
    home = page.parent.parent if "sources" in page.parts else page.parent
    for text in re.findall(r"\{doc\}`([^`]+)`", page.read_text()):
        target = text.rpartition("<")[2].rstrip(">")
        base = DOCS / target.lstrip("/") if target.startswith("/") else home / target
        assert exists(base), target


def exists(base: Path) -> bool:
    """Whether there is such a page, or a build makes it."""
    return set(MADE) & set(base.parts) != set() or any(
        base.with_name(base.name + suffix).exists() for suffix in (".md", ".ipynb")
    )


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_a_tutorial_was_executed_as_it_is(source: Path) -> None:
    """If not: make notebooks."""
    assert program("notebooks").is_current(source)


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_a_tutorial_ran_without_an_error_and_names_no_machine(source: Path) -> None:
    notebook: Any = json.loads((source.parents[1] / f"{source.stem}.ipynb").read_text())
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    assert outputs
    for output in outputs:
        assert output["output_type"] != "error"
        printed = str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", ""))
        assert not re.search(r"/(tmp|home|root|work|Users)/", printed), printed
