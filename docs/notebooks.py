"""Execute the tutorials: ``tutorials/sources/NAME.md`` becomes ``tutorials/NAME.ipynb``.

``python docs/notebooks.py`` does it for those whose code has changed, ``python docs/notebooks.py
NAME ...`` for the ones named. Notebooks are kept in the repository with what they printed and drew,
so that a build of the docs takes seconds and needs no network. ``tests/test_docs.py`` notices
when a notebook is not that of its source.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

FOLDER = Path(__file__).parent / "tutorials"
SOURCES = FOLDER / "sources"
LIMIT = 3600  # seconds a cell may take
WIDTH = 800  # pixels of a kept picture, at most


def read_source(path: Path) -> Any:
    """Return the notebook that a MyST Markdown file stands for, not executed."""
    from myst_nb.core.read import read_myst_markdown_notebook

    return read_myst_markdown_notebook(path.read_text(), path=path)


def cells_of(notebook: Any) -> list[tuple[str, str]]:
    """Return kind and text of every cell: what makes two notebooks the same tutorial."""
    return [(cell.cell_type, cell.source.strip()) for cell in notebook.cells]


def is_current(source: Path) -> bool:
    """Whether the executed notebook is that of its source."""
    import nbformat

    made = FOLDER / f"{source.stem}.ipynb"
    if not made.exists():
        return False
    return cells_of(nbformat.read(made, as_version=4)) == cells_of(read_source(source))


def execute(source: Path) -> None:
    """Run a tutorial in an empty folder, and write its notebook."""
    import nbformat
    from nbclient import NotebookClient

    notebook = read_source(source)
    with TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=LIMIT, kernel_name="python3", resources=resources).execute(
            env=os.environ | {"PATH": _path_with_commands(), "COLUMNS": "100"}
        )
        for number, cell in enumerate(notebook.cells):
            cell.id = f"{source.stem}-{number}"  # not random: the same run gives the same file
            _tidy(cell, folder)
    notebook.metadata = {
        "kernelspec": notebook.metadata["kernelspec"],
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},  # knows %%bash
    }
    nbformat.write(notebook, FOLDER / f"{source.stem}.ipynb")


def _path_with_commands() -> str:
    """Where shell cells find ``embedseg-large``: beside this Python first."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def _tidy(cell: Any, folder: str) -> None:
    """Leave out of a cell what is of this run: its folder, its times, its progress bars."""
    cell.metadata.pop("execution", None)
    if "outputs" in cell:
        cell.outputs = _joined([o for o in cell.outputs if o.get("name") != "stderr"])
    for output in cell.get("outputs", []):
        if "text" in output:
            output["text"] = output["text"].replace(f"{folder}/", "")
        for kind, data in output.get("data", {}).items():
            if kind.startswith("text/"):
                output["data"][kind] = data.replace(f"{folder}/", "")
            elif kind == "image/png":
                output["data"][kind] = _small(data)


def _joined(outputs: list[Any]) -> list[Any]:
    """Put together what was printed piece by piece, so that no path is in two pieces."""
    joined: list[Any] = []
    for output in outputs:
        if joined and output.output_type == joined[-1].output_type == "stream":
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _small(picture: str) -> str:
    """Return a PNG in base64 with few pixels and 256 colours: the repository keeps it for ever."""
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(picture))) as found:
        image = found.convert("RGB")
    if image.width > WIDTH:
        size = (WIDTH, round(image.height * WIDTH / image.width))
        image = image.resize(size, Image.Resampling.LANCZOS)
    with io.BytesIO() as file:
        image.quantize(256).save(file, "png", optimize=True)
        return base64.b64encode(file.getvalue()).decode()


def main() -> None:
    """Execute the tutorials that were named, or those that have changed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="of tutorials; default: those that have changed")
    names = parser.parse_args().names
    for source in sorted(SOURCES.glob("*.md")):
        if source.stem in names or (not names and not is_current(source)):
            print(f"executing {source.name}", flush=True)
            execute(source)


if __name__ == "__main__":
    main()
