"""Fixtures that every test may use."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import zarr
from hypothesis import settings
from numpy.typing import NDArray

REPOSITORY = Path(__file__).parents[1]

settings.register_profile("untimed", deadline=None)  # no test times anything
settings.load_profile("untimed")

WriteImage = Callable[..., Path]


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
        zarr_format: Literal[2, 3] = 3 if version == "0.5" else 2
        metadata: dict[str, Any] = {} if multiscale is None else {"multiscales": [multiscale]}
        metadata |= attributes or {}
        if version == "0.5":
            metadata = {"ome": {"version": "0.5", **metadata}}
        group = zarr.create_group(folder, zarr_format=zarr_format, attributes=metadata)
        for path, level in zip(paths, levels, strict=False):
            stored = group.create_array(path, shape=level.shape, dtype=level.dtype, **array)
            stored[...] = level
        return folder

    return write


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run."""
    return np.random.default_rng(7)
