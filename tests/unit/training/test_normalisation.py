"""Batch normalisation with fixed statistics, and how these are measured."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from embedseg_large.network.erfnet import BranchedERFNet
from embedseg_large.network.unet import UNet
from embedseg_large.training.normalisation import freeze, recalibrate
from embedseg_large.training.processes import Processes

NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "erfnet": lambda ndim: BranchedERFNet(ndim, 1),
    "unet": lambda ndim: UNet(ndim, 1, (2, 1)),
}
every_network = pytest.mark.parametrize(
    "network", [(name, ndim) for name in NETWORKS for ndim in (2, 3)], ids=str, indirect=True
)


@pytest.fixture
def network(request: pytest.FixtureRequest) -> nn.Module:
    name, ndim = getattr(request, "param", ("erfnet", 2))
    torch.manual_seed(0)
    made = NETWORKS[name](ndim)
    made.ndim = ndim  # type: ignore[assignment]
    return made


def images(network: nn.Module, batches: int = 3, samples: int = 2) -> list[Tensor]:
    """Batches that differ in brightness and contrast, as those of different sources do."""
    rng = np.random.default_rng(1)
    shape = (samples, 1, *(16,) * int(network.ndim))  # type: ignore[arg-type]
    values = [rng.normal(k, 1 + 3 * k, shape) for k in range(batches)]
    return [torch.from_numpy(v.astype(np.float32)) for v in values]


def normalisations(network: nn.Module) -> list[nn.Module]:
    found = (m for m in network.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d))
    return [*found]


def inputs_of(network: nn.Module, batches: list[Tensor]) -> list[list[Tensor]]:
    """What each layer sees while every one normalises by its batch and nothing is dropped out."""
    network.eval()
    layers = normalisations(network)
    seen: list[list[Tensor]] = [[] for _ in layers]
    hooks = []
    for layer, found in zip(layers, seen, strict=True):
        layer.train()
        hooks.append(layer.register_forward_pre_hook(lambda _, x, f=found: f.append(x[0].clone())))
    with torch.no_grad():
        for batch in batches:
            network(batch)
    for hook in hooks:
        hook.remove()
    return seen


def buffers(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.named_buffers()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@every_network
def test_recalibrated_statistics_are_mean_and_variance_over_all_crops(network: nn.Module) -> None:
    batches = images(network)
    seen = inputs_of(network, batches)
    recalibrate(network, batches)
    for layer, found in zip(normalisations(network), seen, strict=True):
        values = torch.cat(found).double().movedim(1, 0).flatten(1).numpy()  # channel by channel
        mean, variance = layer.get_buffer("running_mean"), layer.get_buffer("running_var")
        np.testing.assert_allclose(mean, values.mean(1), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(variance, values.var(1, ddof=1), rtol=1e-4, atol=1e-9)
        assert layer.get_buffer("num_batches_tracked") == len(batches)


def test_crops_count_alike_however_large_their_batch_is(network: nn.Module) -> None:
    first = normalisations(network)[0]  # sees the same, whatever the batches
    crops = images(network)
    recalibrate(network, crops)
    statistics = first.get_buffer("running_mean").clone(), first.get_buffer("running_var").clone()
    recalibrate(network, [torch.cat(crops[:2]), crops[2]])
    torch.testing.assert_close(first.get_buffer("running_mean"), statistics[0])
    torch.testing.assert_close(first.get_buffer("running_var"), statistics[1])


def test_recalibrating_is_repeatable_and_changes_nothing_else(network: nn.Module) -> None:
    weights = {name: p.clone() for name, p in network.named_parameters()}
    random = torch.get_rng_state()
    recalibrate(network, images(network))
    once = buffers(network)
    recalibrate(network, images(network))
    assert equal(buffers(network), once)
    assert all(torch.equal(p, weights[name]) for name, p in network.named_parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module.training for module in network.modules())


@every_network
def test_a_part_that_stands_still_keeps_its_statistics(network: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    recalibrate(network, images(network), still=network.get_submodule("encoder"))
    after = network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not {name for name in changed if name.startswith("encoder")}


def test_several_processes_get_the_statistics_over_the_crops_of_all(network: nn.Module) -> None:
    class Twins(Processes):
        """Two processes, of which the other one has seen the same."""

        def summed(self, values: Tensor) -> Tensor:
            return 2 * values

    crops = images(network)
    recalibrate(network, crops, Twins())
    twice = buffers(network)
    recalibrate(network, [*crops, *crops])
    for name, tensor in buffers(network).items():
        if "num_batches" not in name:
            torch.testing.assert_close(twice[name], tensor)


@every_network
def test_a_frozen_network_learns_and_keeps_its_statistics(network: nn.Module) -> None:
    crops = images(network)
    recalibrate(network, crops)
    kept = buffers(network)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    network.train()
    freeze(network)
    scale = normalisations(network)[0].get_parameter("weight")
    before = scale.clone()
    for batch in crops:
        network(batch).square().mean().backward()
        optimiser.step()
    assert equal(buffers(network), kept)
    assert not torch.equal(scale, before)


@every_network
def test_training_and_inference_agree_if_frozen(network: nn.Module) -> None:
    crops = images(network)
    recalibrate(network, crops)
    for module in network.modules():
        if isinstance(module, nn.Dropout2d | nn.Dropout3d):
            module.p = 0
    crop = crops[1][:1]
    with torch.no_grad():
        inference = network.eval()(crop)
        freeze(network.train())
        frozen = network(crop)
        by_batch = network.train()(crop)
    assert torch.equal(frozen, inference)
    assert not torch.allclose(by_batch, inference)
