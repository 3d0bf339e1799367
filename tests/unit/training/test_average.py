"""The running mean of weights."""

from __future__ import annotations

import torch
from torch import nn

from embedseg_large.training.average import averaged


def network(value: float) -> nn.Module:
    made = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    with torch.no_grad():
        for tensor in made.state_dict().values():
            tensor.fill_(value)
    return made


def test_the_mean_starts_as_the_first_weights_and_forgets_slowly() -> None:
    mean = averaged(network(1.0), steps=4)
    mean.update_parameters(network(3.0))
    weights = mean.module.state_dict()
    assert weights["0.weight"].item() == 3  # nothing to average yet
    mean.update_parameters(network(5.0))
    first = weights["0.weight"].item()
    assert 3 < first < 5
    for _ in range(200):
        mean.update_parameters(network(0.0))
    assert abs(weights["0.weight"].item()) < 1e-6
    mean.update_parameters(network(8.0))
    assert weights["0.weight"].item() == 8 / 4  # the share is one over the steps


def test_running_statistics_are_averaged_and_counters_kept() -> None:
    mean = averaged(network(1.0), steps=10)
    for _ in range(3):
        mean.update_parameters(network(7.0))
    weights = mean.module.state_dict()
    assert 1 < weights["1.running_mean"].item() <= 7
    assert weights["1.num_batches_tracked"].item() == 7
