"""What the benchmark compares the network with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from embedseg_large.errors import UsageError
from embedseg_large.network.checkpoint import load_model
from embedseg_large.network.erfnet import BranchedERFNet
from embedseg_large.network.roofline import copy_rate, flops_per_voxel, matmul_rate
from embedseg_large.segmentation.benchmark import benchmark


def counted_by_hand(ndim: int, channels: int) -> float:
    """A multiplication and an addition for each weight of each place a kernel is put."""
    total = 0

    def count(layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal total
        places = inputs[0] if "Transpose" in type(layer).__name__ else output
        total += 2 * layer.get_parameter("weight").numel() * places[0, 0].numel()

    with torch.device("meta"):
        network, image = BranchedERFNet(ndim, channels), torch.empty(1, channels, *(16,) * ndim)
    for layer in network.modules():
        if "Conv" in type(layer).__name__:
            layer.register_forward_hook(count)
    network.eval()(image)
    return float(total / 16**ndim)


@pytest.mark.parametrize(("ndim", "channels"), [(3, 1), (3, 2), (2, 1)])
def test_the_operations_of_a_voxel_are_those_of_its_convolutions(ndim: int, channels: int) -> None:
    assert flops_per_voxel(ndim, channels) == pytest.approx(counted_by_hand(ndim, channels))


def test_a_voxel_of_a_volume_costs_what_the_design_says() -> None:
    assert flops_per_voxel(3, 1) == pytest.approx(39_600, rel=0.01)


def test_rates_are_positive_and_leave_the_number_of_threads_alone() -> None:
    threads = torch.get_num_threads()
    assert matmul_rate("cpu", "float32", threads=1) > 0
    assert copy_rate("cpu", "bfloat16", threads=2) > 0
    assert torch.get_num_threads() == threads


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="tpu"):
        matmul_rate("tpu", "float32", threads=1)


def test_a_volume_too_small_to_say_anything_is_refused() -> None:
    with pytest.raises(UsageError, match=r"at least 32"):
        benchmark(np.zeros((1, 40, 40, 8), np.uint16), load_model("nuclei-3d"))
