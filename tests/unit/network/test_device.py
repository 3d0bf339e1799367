"""Where networks run; GPUs of Apple, which no test machine has, only where they are asked for."""

from __future__ import annotations

import pytest
import torch

from embedseg_large.errors import UsageError
from embedseg_large.network import device
from embedseg_large.runs.devices import is_gpu
from embedseg_large.training.processes import Processes


@pytest.fixture
def apple(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine on which torch finds a GPU of Apple with 16 GB; what it is told."""
    told: list[str] = []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 16 << 30)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 15 << 30)
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: told.append("empty"))
    return told


def test_mps_that_is_not_there_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"^device is 'mps', but torch finds no Apple GPU here"):
        device.checked_device("mps")


def test_mps_is_used_only_where_it_is_asked_for(apple: list[str]) -> None:
    assert device.default_device() in ("cpu", "cuda")
    assert device.checked_device("mps") == "mps"
    assert is_gpu("mps")
    assert device.default_dtype("mps") == "float32"
    assert not device.native_bfloat16("mps")
    device.free_unused("mps")
    assert apple == ["empty"]


@pytest.mark.usefixtures("apple")
def test_a_batch_on_mps_fits_into_the_memory_that_is_left() -> None:
    of_one = device.CUDA_BYTES_PER_VOXEL * 64**3
    fitting = device.passes_that_fit("mps", 64**3, 1000)
    assert fitting * of_one < 0.8 * 2**30 < 2 * fitting * of_one
    assert device.passes_that_fit("mps", 1000**3, 16) == 1


@pytest.mark.usefixtures("apple")
def test_no_model_is_trained_on_mps() -> None:
    with pytest.raises(UsageError, match="not trained on mps; use cpu"):
        Processes.here("mps", {})


@pytest.mark.parametrize("name", ["tpu", "xla:0", "meta", ""])
def test_other_devices_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="use cpu, cuda or mps"):
        device.checked_device(name)
