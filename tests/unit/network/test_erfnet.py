"""The network has the shape and the names of the original, in 2D and 3D."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from embedseg_large.network.erfnet import BranchedERFNet

PARITY = Path(__file__).parents[2] / "data" / "parity"


@pytest.mark.parametrize(("ndim", "count"), [(2, 2_252_624), (3, 3_690_146)])
def test_the_number_of_parameters_is_the_original_one(ndim: int, count: int) -> None:
    assert sum(p.numel() for p in BranchedERFNet(ndim).parameters()) == count


@pytest.mark.parametrize("ndim", [2, 3])
def test_every_tensor_of_an_original_checkpoint_has_its_place(ndim: int) -> None:
    listing = json.loads((PARITY / f"state_dict_{ndim}d.json").read_text())
    ours = {name: list(t.shape) for name, t in BranchedERFNet(ndim).state_dict().items()}
    assert ours == {name: shape for name, shape, _ in listing}


@pytest.mark.parametrize(("ndim", "channels"), [(2, 1), (2, 3), (3, 2)])
def test_raw_channels_have_the_size_of_the_image(ndim: int, channels: int) -> None:
    shape = (8, 16, 24)[:ndim]
    network = BranchedERFNet(ndim, channels).eval()
    assert network(torch.rand(2, channels, *shape)).shape == (2, 2 * ndim + 1, *shape)


@pytest.mark.parametrize("ndim", [2, 3])
def test_an_untrained_network_points_nowhere_with_sigma_one(ndim: int) -> None:
    raw = BranchedERFNet(ndim).eval()(torch.rand(1, 1, *(16,) * ndim))[0]
    assert (raw[:ndim] == 0).all()
    assert (raw[ndim : 2 * ndim] == 1).all()


def test_every_parameter_but_the_unused_output_learns() -> None:
    network = BranchedERFNet(2)
    network(torch.rand(2, 1, 16, 16)).square().sum().backward()
    untouched = {name for name, p in network.named_parameters() if p.grad is None}
    assert untouched == {"encoder.output_conv.weight", "encoder.output_conv.bias"}
