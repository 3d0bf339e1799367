"""The network in the form in which it answers is the trained one, faster and not otherwise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from embedseg_large.network import convolution
from embedseg_large.network.convolution import (
    Convolution,
    channels_last,
    fold,
    has_fused_operators,
)
from embedseg_large.network.erfnet import BranchedERFNet
from embedseg_large.network.inference import InferenceNetwork, halved
from embedseg_large.network.memory import Memory

CONVS = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}

pytestmark = pytest.mark.usefixtures("one_thread")
needs_fused = pytest.mark.skipif(
    not has_fused_operators(torch.float32), reason="torch has no fused operators for this processor"
)


@torch.no_grad()
def trained(ndim: int, channels: int = 1) -> BranchedERFNet:
    """A network whose batch normalisations have seen something, and whose answers vary."""
    torch.manual_seed(0)
    network = BranchedERFNet(ndim, channels)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.3, 2)
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(std=0.3)
    for decoder in network.decoders:
        nn.init.normal_(decoder.get_submodule("output_conv").get_parameter("weight"))
        nn.init.normal_(decoder.get_submodule("output_conv").get_parameter("bias"))
    return network.eval().requires_grad_(False)


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the deviation of what is expected."""
    return float((found - expected).abs().max() / expected.std())


@pytest.fixture
def without_fused_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "has_fused_operators", lambda _: False)


@pytest.mark.parametrize(("ndim", "channels"), [(2, 1), (2, 3), (3, 1), (3, 2)])
def test_answers_are_those_of_the_trained_network(ndim: int, channels: int) -> None:
    network, image = trained(ndim, channels), torch.rand(2, channels, *(16, 24, 40)[:ndim])
    raw = InferenceNetwork(network, "cpu", torch.float32)(image)
    assert raw.is_contiguous()
    assert difference(raw, network(image)) < 1e-4


@pytest.mark.usefixtures("without_fused_operators")
@pytest.mark.parametrize("ndim", [2, 3])
def test_they_are_so_without_fused_operators(ndim: int) -> None:
    network, image = trained(ndim), torch.rand(1, 1, *(16, 24, 16)[:ndim])
    raw = InferenceNetwork(network, "cpu", torch.float32)(image)
    assert difference(raw, network(image)) < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_the_precision_gives_about_the_same_in_float32(dtype: torch.dtype) -> None:
    network, image = trained(3), torch.rand(1, 1, 16, 16, 16)
    raw, expected = InferenceNetwork(network, "cpu", dtype)(image), network(image)
    assert raw.dtype == torch.float32
    assert 0 < (raw - expected).std() < 0.05 * expected.std()


def test_an_image_of_a_batch_is_answered_as_if_it_were_alone() -> None:
    network = InferenceNetwork(trained(3), "cpu", torch.float32)
    images = torch.rand(3, 1, 8, 16, 16)
    alone = torch.cat([network(image[None]) for image in images])
    assert difference(network(images), alone) < 1e-6


def test_the_trained_network_is_left_as_it_is() -> None:
    network = trained(2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    InferenceNetwork(network, "cpu", torch.float32)(torch.rand(1, 1, 16, 16))
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("ndim", [2, 3])
def test_a_batch_normalisation_is_part_of_the_convolution(ndim: int, transposed: bool) -> None:
    made = TRANSPOSED[ndim] if transposed else CONVS[ndim]
    conv, bn = made(4, 6, kernel_size=3, stride=2, padding=1), NORMS[ndim](8).eval()
    assert bn.running_mean is not None
    bn.running_mean.normal_()
    nn.init.uniform_(bn.weight, 0.5, 2)
    x = torch.randn(1, 4, *(8,) * ndim)
    wide = torch.cat([y := conv(x), y[:, :2]], dim=1)  # a normalisation of more channels
    torch.testing.assert_close(
        fold(conv, bn, relu=False)(x, Memory()), bn(wide)[:, :6], rtol=0, atol=1e-5
    )


@needs_fused
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("ndim", [2, 3])
def test_fused_and_plain_convolutions_agree(ndim: int, relu: bool) -> None:
    torch.manual_seed(1)
    x = channels_last(torch.randn(2, 16, *(9, 8, 7)[:ndim]))
    for stride, dilation, output_padding in ((1, 2, None), (2, 1, None), (2, 1, (1,) * ndim)):
        made = Convolution(
            weight=channels_last(torch.randn(16, 16, *(3,) * ndim)),
            bias=torch.randn(16),
            stride=(stride,) * ndim,
            padding=(dilation,) * ndim,
            dilation=(dilation,) * ndim,
            output_padding=output_padding,
            relu=relu,
        )
        pairs = [(made.fused(x), made.plain(x))]
        if output_padding is None:
            y = made.plain(x)
            pairs.append((made.fused_onto(x, y.clone()), made.plain_onto(x, y.clone())))
        for found, expected in pairs:
            torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)
            assert bool((found >= 0).all()) == relu


@needs_fused
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("ndim", [2, 3])
def test_results_in_memory_used_before_have_the_same_bits(ndim: int, relu: bool) -> None:
    sides = (64, 48, 40)[:ndim] if ndim == 3 else (256, 192)
    x, residual = (channels_last(torch.randn(1, 16, *sides)) for _ in range(2))
    made = fold(CONVS[ndim](16, 16, 3, padding=1), None, relu=relu)
    memory, onto = Memory(), residual.clone()
    memory.give(used := torch.full_like(x, torch.nan))
    found = made(x, memory)
    assert found.data_ptr() == used.data_ptr()
    assert torch.equal(found, made.fused(x))
    assert made.onto(x, onto).data_ptr() == onto.data_ptr()
    torch.testing.assert_close(onto, made.plain_onto(x, residual), rtol=0, atol=2e-4)


@needs_fused
@pytest.mark.parametrize("ndim", [2, 3])
def test_doubling_a_few_planes_at_a_time_is_the_transposed_convolution(ndim: int) -> None:
    made = fold(
        TRANSPOSED[ndim](32, 16, 3, stride=2, padding=1, output_padding=1).requires_grad_(False),
        None,
    )
    x = channels_last(torch.randn(2, 32, *(37, 5, 4)[:ndim]))
    torch.testing.assert_close(made(x, Memory()), made.plain(x), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("without_fused_operators")
def test_without_fused_operators_results_are_the_same() -> None:
    x, residual = (channels_last(torch.randn(1, 16, 5, 6, 7)) for _ in range(2))
    made = fold(nn.Conv3d(16, 16, 3, padding=1), None)
    assert torch.equal(made(x, Memory()), made.plain(x))
    assert torch.equal(made.onto(x, residual.clone()), (made._convolved(x) + residual).relu_())


def test_operators_that_do_not_agree_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Convolution.plain
    has_fused_operators.cache_clear()
    monkeypatch.setattr(Convolution, "fused", lambda *args: plain(*args) + 1)
    assert not has_fused_operators(torch.float32)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    has_fused_operators.cache_clear()
    assert not has_fused_operators(torch.float32)
    has_fused_operators.cache_clear()


def test_operators_that_are_missing_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> Tensor:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no such attribute")

    has_fused_operators.cache_clear()
    monkeypatch.setattr(Convolution, "fused", missing)
    assert not has_fused_operators(torch.float32)
    has_fused_operators.cache_clear()


@pytest.mark.parametrize(("ndim", "channels"), [(2, 1), (3, 1), (3, 16)])
def test_halving_is_a_max_pooling(ndim: int, channels: int) -> None:
    x = torch.randn(2, channels, *(4, 6, 8)[:ndim])
    pool = nn.MaxPool2d(2) if ndim == 2 else nn.MaxPool3d(2)
    assert torch.equal(halved(x, Memory()), pool(x))
    assert torch.equal(halved(channels_last(x), Memory()), pool(x))
