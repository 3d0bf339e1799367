"""Where Linux's own calls are absent (macOS, Windows), the core does the same with less comfort."""

from __future__ import annotations

import errno
import os
import platform
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

import embedseg_large as es
from embedseg_large.conversion.plan import write_image
from embedseg_large.errors import RunError
from embedseg_large.network.device import available_cores
from embedseg_large.runs import lock
from embedseg_large.storage.disk import LocalFolder
from embedseg_large.testing.synthetic import synthetic_embryo

Labels = NDArray[Any]
pytestmark = pytest.mark.usefixtures("elsewhere")


def no_link(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.ENOTSUP, "no hard links here")


def no_signal(*_: object) -> NoReturn:
    raise AssertionError("on Windows this ends the process")


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without fcntl, hard links, affinity and /proc, on which os.kill kills."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setattr(os, "link", no_link)
    monkeypatch.setattr(os, "kill", no_signal)
    monkeypatch.setattr(psutil, "pid_exists", lambda pid: pid in psutil.pids())  # without os.kill
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(lock, "_BOOT_ID", Path("nowhere") / "boot_id")


def ids(image: NDArray[np.float32]) -> Labels:
    return image.astype(np.int64)


def own(function: Any = ids) -> es.TileSegmenter:
    return es.TileSegmenter(
        function, name="ids", ndim=3, tile=(20,) * 3, halo=(12,) * 3, intensity="raw"
    )


def test_from_an_image_to_a_table(tmp_path: Path) -> None:
    embryo = synthetic_embryo((24, 40, 40), density=0.4, diameter=10, seed=1).astype(np.uint16)
    store = tmp_path / "a.ome.zarr"
    es.convert(embryo, store)
    result = es.segment(store, own())
    assert result.n_instances == np.unique(embryo).size - 1
    table = es.measure(store, into_store=True)
    assert len(table) == result.n_instances
    es.export_labels(result.path, tmp_path / "a.tif")
    score = es.evaluate(tmp_path / "a.tif", embryo, (0.9,))[0]
    assert score.ap == 1


def test_a_run_that_failed_is_resumed(tmp_path: Path) -> None:
    embryo = synthetic_embryo((24, 40, 40), density=0.4, diameter=10, seed=1).astype(np.uint16)
    write_image(tmp_path / "a.ome.zarr", embryo)
    calls = []

    def fragile(image: NDArray[np.float32]) -> Labels:
        calls.append(image.shape)
        if 4 < len(calls) < 12:
            raise ValueError("odd")
        return ids(image)

    with pytest.raises(RunError, match="odd"):
        es.segment(tmp_path / "a.ome.zarr", own(fragile))
    result = es.segment(tmp_path / "a.ome.zarr", own(fragile))
    assert result.summary["resumed"]


def test_a_file_is_created_once_without_hard_links(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path / "new"))
    assert folder.create("a", b"first")
    assert not folder.create("a", b"second")
    assert folder.read("a") == b"first"
    assert list(folder.names()) == ["a"]


def test_a_holder_of_a_lock_is_asked_for_without_a_signal() -> None:
    here = {"host": platform.node(), "boot": lock._boot()}
    assert here["boot"]
    gone = max(psutil.pids()) + 100_000
    assert lock._is_dead(here | {"pid": gone})
    assert not lock._is_dead(here | {"pid": os.getpid()})
    assert not lock._is_dead(here | {"pid": gone, "boot": "another"})


def test_cores_are_counted() -> None:
    assert available_cores() >= 1
