"""Workers that could not hold a tile are refused before they start, and tight ones are told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from embedseg_large.errors import UsageError
from embedseg_large.runs.dask.cluster_file import CudaSettings, LocalSettings
from embedseg_large.segmentation.request import estimate
from embedseg_large.segmentation.request.estimate import check_memory


@pytest.fixture(autouse=True)
def plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile takes 1 GiB."""
    monkeypatch.setattr(estimate, "estimate_of", lambda _: SimpleNamespace(worker_bytes=2**30))


def request_of(saved_in: str | None = None) -> Any:
    return SimpleNamespace(saved_in=saved_in)


def local(limit: str | None) -> LocalSettings:
    return LocalSettings(file="workers.yaml", workers=2, memory=limit)


def test_less_than_half_is_refused_in_one_line_that_says_what_to_do() -> None:
    with pytest.raises(UsageError) as told:
        check_memory(local("500MiB"), request_of())
    assert str(told.value) == (
        "workers.yaml: memory gives a worker 500.00 MiB, and a tile takes up to 1.00 GiB; raise "
        "memory (with fewer workers), or make tiles smaller (--tile, --cluster-tile)"
    )


def test_less_than_all_of_it_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    check_memory(local("600MiB"), request_of())
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "600.00 MiB, and a tile takes up to 1.00 GiB" in record.message


@pytest.mark.parametrize(
    ("where", "kept_in"),
    [
        (local("1GiB"), None),
        (local(None), None),  # a share of this machine
        (CudaSettings(memory="1MB"), None),
        (local("1MB"), "/predictions"),  # which the plan does not know
        (None, None),
    ],
)
def test_enough_memory_or_an_unknown_limit_says_nothing(
    where: object, kept_in: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    check_memory(where, request_of(kept_in))
    assert not caplog.records
