"""A process knows whether torchrun started it, and alone it is as if there were no processes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from embedseg_large.errors import UsageError
from embedseg_large.network.device import available_cores
from embedseg_large.training.processes import Processes

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}


@pytest.mark.parametrize(
    "environ", [{}, {"WORLD_SIZE": "4"}, TORCHRUN | {"WORLD_SIZE": "1", "RANK": "0"}]
)
def test_without_torchrun_a_process_is_alone(environ: dict[str, str]) -> None:
    us = Processes.here("cpu", environ)
    assert us == Processes("cpu")
    assert us.first
    assert us.alone
    assert us.cores == available_cores()


def test_torchrun_says_which_one_it_is_of_how_many() -> None:
    us = Processes.here("cpu", TORCHRUN)
    assert us == Processes("cpu", rank=5, world=8, local_world=4)
    assert not us.first
    assert not us.alone
    assert 1 <= us.cores <= max(1, available_cores() // 4)


def test_every_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    us = Processes.here(None, TORCHRUN)
    assert us.device == "cuda:1"
    assert us.device_type == "cuda"
    with pytest.raises(UsageError, match="no GPU, torch finds 2"):
        Processes.here("cuda", TORCHRUN | {"LOCAL_RANK": "2"})


def test_alone_there_is_nobody_to_ask() -> None:
    us, values, network = Processes(), torch.arange(3.0), nn.BatchNorm2d(1)
    with us.together():
        assert not torch.distributed.is_initialized()
        assert us.agreed(7) == 7
        assert us.summed(values) is values
        assert us.gathered(values).shape == (1, 3)
        assert us.adapted(network) is network
        assert us.averaging(network) is network
