"""Pages of the command reference, made from the commands themselves.

Sphinx calls `setup`. When a build begins, a page is written for every command of
``embedseg-large`` into ``reference/cli``; pages of commands that are gone are deleted. Nothing is
kept in the repository, so nothing can be out of date.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from sphinx.application import Sphinx

GUIDES = {
    "demo": "quickstart",
    "convert": "concepts/formats",
    "train": "tutorials/train",
    "compare": "guides/compare",
    "segment": "tutorials/segment",
    "status": "tutorials/scale_out",
    "evaluate": "guides/evaluate",
    "suggest": "guides/object_size",
    "measure": "guides/measure",
    "track": "guides/tracking",
    "report": "tutorials/review",
    "review": "guides/proofread",
    "view": "quickstart",
    "export-labels": "guides/export_labels",
    "export": "guides/models",
    "import": "guides/models",
}
"""Where to read more about a command: pages of these docs."""


def commands() -> dict[str, Any]:
    """Return the commands by name, in the order of ``embedseg-large --help``."""
    from embedseg_large.cli.app import app

    group: Any = typer.main.get_command(app)
    return {name: command for name, command in group.commands.items() if not command.hidden}


def page(name: str, command: Any) -> str:
    """Return the page of a command, as MyST Markdown."""
    text = _with_code(inspect.cleandoc(command.help or ""))
    parts = [f"# {name}", text, _usage(name, command)]
    if name in GUIDES:
        parts.append(f"More: {{doc}}`/{GUIDES[name]}`.")
    for title, parameters in _panels(command).items():
        parts += [f"## {title}", *(_entry(parameter) for parameter in parameters)]
    return "\n\n".join(parts) + "\n"


def _usage(name: str, command: Any) -> str:
    """The command with what it needs."""
    words = ["embedseg-large", name]
    words += [_metavar(p) for p in command.params if _is_argument(p)]
    words += [f"{p.opts[0]} {_metavar(p)}" for p in command.params if _is_option(p) and p.required]
    return f"```text\n{' '.join(words)} [OPTIONS]\n```"


def _panels(command: Any) -> dict[str, list[Any]]:
    """Parameters by the heading they have in ``--help``."""
    found: dict[str, list[Any]] = {}
    for parameter in command.params:
        if not parameter.hidden and parameter.name != "help":
            default = "Arguments" if _is_argument(parameter) else "Options"
            found.setdefault(parameter.rich_help_panel or default, []).append(parameter)
    return found


def _entry(parameter: Any) -> str:
    """One parameter, as an item of a definition list."""
    text = _with_code((parameter.help or "").strip())
    return f"{_signature(parameter)}\n: {text}{_default(parameter)}"


def _with_code(text: str) -> str:
    """Mark options in a text, whose dashes would be taken for punctuation; code stays as it is."""
    parts = re.split(r"(`[^`]*`)", text)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"(?<![\w-])(--[a-z][a-z-]+)", r"`\1`", parts[i])
    return "".join(parts)


def _signature(parameter: Any) -> str:
    if _is_argument(parameter):
        return f"`{_metavar(parameter)}`"
    names = [*parameter.opts, *parameter.secondary_opts]
    value = "" if parameter.is_flag else f" {_metavar(parameter)}"
    return ", ".join(f"`{name}{value}`" for name in names)


def _metavar(parameter: Any) -> str:
    """What stands for the value: ``Z,Y,X``, a choice, or the parameter's name."""
    if parameter.metavar:
        return str(parameter.metavar)
    if _is_argument(parameter):
        return str(parameter.name).upper()
    kind = parameter.type_descriptor.annotation
    return {int: "N", float: "X"}.get(kind, str(parameter.opts[0]).lstrip("-").upper())


def _default(parameter: Any) -> str:
    if parameter.required:
        return " *Required.*"
    value = parameter.default
    if value is None or value is False or callable(value):
        return ""
    return f" *Default:* `{getattr(value, 'value', value)}`."


def _is_argument(parameter: Any) -> bool:
    return isinstance(parameter, typer.core.TyperArgument)


def _is_option(parameter: Any) -> bool:
    return isinstance(parameter, typer.core.TyperOption)


def index(names: list[str]) -> str:
    """Return the page that lists all commands."""
    rows = (f"| {{doc}}`{n} <{n}>` | {_first_sentence(c)} |" for n, c in commands().items())
    toc = "\n".join(names)
    return (
        "# Command line\n\n"
        "`embedseg-large COMMAND --help` shows the same in the terminal. Commands that print "
        "results print JSON with `--json`.\n\n"
        "| | |\n|---|---|\n" + "\n".join(rows) + "\n\n"
        "Exit codes, output for scripts and optional extras: {doc}`/reference/conventions`.\n\n"
        f"```{{toctree}}\n:hidden:\n\n{toc}\n```\n"
    )


def _first_sentence(command: Any) -> str:
    return " ".join((command.help or "").partition("\n\n")[0].split())


def pages() -> Iterator[tuple[str, str]]:
    """Give the name and text of every page."""
    found = commands()
    yield "index", index(list(found))
    for name, command in found.items():
        yield name, page(name, command)


def write_pages(folder: Path) -> None:
    """Write all pages; those that are as they were keep their date, and need no new build."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {folder / f"{name}.md": text for name, text in pages()}
    for path in set(folder.glob("*.md")) - set(wanted):
        path.unlink()
    for path, text in wanted.items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _write(app: Sphinx) -> None:
    write_pages(Path(app.srcdir) / "reference" / "cli")


def setup(app: Sphinx) -> dict[str, bool]:
    """Let Sphinx write the pages before it reads any."""
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
