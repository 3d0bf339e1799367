"""Fixtures that every test may use."""

from __future__ import annotations

import importlib
import importlib.util
import json
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import yaozarrs
import zarr
from hypothesis import settings
from numpy.typing import NDArray

REPOSITORY = Path(__file__).parents[1]

# no test times anything, and the suite gives the same answer to the same code: `make search` looks
# for examples that nobody has tried
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=500)
settings.load_profile("repeatable")

WriteImage = Callable[..., Path]
CheckNGFF = Callable[[Path, str], None]


def pytest_configure() -> None:
    """Let Ctrl-C end processes that tests start: a background job hands on that it is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real volumes beside the repository."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real volumes are not here: no folder {folder}")
    return folder


@pytest.fixture
def write_image(tmp_path: Path) -> WriteImage:
    """Write arrays and hand-made NGFF metadata: the spec's words, not another library's."""

    def write(
        levels: Sequence[NDArray[Any]],
        multiscale: dict[str, Any] | None,
        version: str,
        *,
        name: str = "image.ome.zarr",
        attributes: dict[str, Any] | None = None,
        paths: Sequence[str] = ("0", "1", "2"),
        **array: Any,
    ) -> Path:
        folder = tmp_path / name
        is_new = version.startswith(("0.5", "0.6"))
        zarr_format: Literal[2, 3] = 3 if is_new else 2
        metadata: dict[str, Any] = {} if multiscale is None else {"multiscales": [multiscale]}
        metadata |= attributes or {}
        if is_new:
            metadata = {"ome": {"version": version, **metadata}}
        group = zarr.create_group(folder, zarr_format=zarr_format, attributes=metadata)
        for path, level in zip(paths, levels, strict=False):
            stored = group.create_array(path, shape=level.shape, dtype=level.dtype, **array)
            stored[...] = level
        return folder

    return write


@pytest.fixture(scope="session")
def check_ngff() -> CheckNGFF:
    """Let every validator that knows the version of a store look at its image and labels."""

    def check(store: Path, version: str) -> None:
        group = zarr.open_group(str(store), mode="r")
        listed = group.get("labels")
        content: Any = {} if listed is None else dict(listed.attrs)
        names = [f"labels/{name}" for name in content.get("ome", content).get("labels", [])]
        own: Any = dict(group.attrs)
        images = [""] if "multiscales" in own.get("ome", own) else []
        module = f"ome_zarr_models.v{version.replace('.', '')}"
        if importlib.util.find_spec(module) is not None:  # of 0.6, only for Python 3.12
            models = importlib.import_module(module)
            if images:
                models.Image.from_zarr(group)
            if listed is not None:
                models.Labels.from_zarr(listed)
            for name in names:
                models.ImageLabel.from_zarr(group[name])
        for name in (*images, *names):
            if version == "0.6":
                _check_with_schema(store / name, "label" if name else "image")
            else:
                yaozarrs.validate_zarr_store(str(store / name))

    return check


def _check_with_schema(folder: Path, kind: str) -> None:
    """Check with the specification's own JSON schemas, which ngff-zarr carries."""
    import ngff_zarr

    attributes = json.loads((folder / "zarr.json").read_text())["attributes"]
    for model in ("image", kind):
        ngff_zarr.validate(attributes, version="0.6", model=model)


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run."""
    return np.random.default_rng(7)
