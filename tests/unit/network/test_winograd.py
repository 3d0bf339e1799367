"""Convolutions with fewer multiplications are those of torch, and stay within their tensors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from embedseg_large.network import winograd
from embedseg_large.network.convolution import Convolution, channels_last, fold
from embedseg_large.network.memory import Memory
from embedseg_large.network.winograd import Winograd, faster, is_available

CONVS = {2: nn.Conv2d, 3: nn.Conv3d}
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not is_available(), reason="this processor has no AVX2 alone"),
]


def along(
    axis: int, ndim: int, channels: int = 16, dilation: int = 1, *, relu: bool = True
) -> Convolution:
    """A convolution along one axis whose results are about as large as its input."""
    torch.manual_seed(axis)
    kernel: Any = tuple(3 if d == axis else 1 for d in range(ndim))
    padding: Any = tuple(dilation if d == axis else 0 for d in range(ndim))
    made = CONVS[ndim](channels, channels, kernel, padding=padding, dilation=dilation)
    nn.init.normal_(made.weight, std=(3 * channels) ** -0.5)
    return fold(made, None, relu=relu)


def detour(convolution: Convolution) -> Winograd:
    found = faster(convolution)
    assert isinstance(found, Winograd)
    return found


def exact(convolution: Convolution, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """The result in float64."""
    c = convolution
    compute = torch.conv2d if x.ndim == 4 else torch.conv3d
    y = compute(x.double(), c.weight.double(), c.bias.double(), c.stride, c.padding, c.dilation)
    y = y if residual is None else y + residual.double()
    return y.relu() if c.relu else y


def framed(shape: tuple[int, ...], content: float) -> tuple[Tensor, Tensor]:
    """A tensor with adjacent channels, and the larger one in whose middle it is."""
    n, channels, *spatial = shape
    count, margin = int(np.prod(shape)), 4096
    whole = torch.full((count + 2 * margin,), content)
    return whole[margin:-margin].view(n, *spatial, channels).movedim(-1, 1), whole


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize(("axis", "ndim"), [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3)])
@pytest.mark.parametrize("sides", [(16, 14, 19), (24, 21, 17)])
def test_results_are_those_of_the_direct_convolution(
    axis: int, ndim: int, dilation: int, relu: bool, sides: tuple[int, ...]
) -> None:
    made = along(axis, ndim, dilation=dilation, relu=relu)
    x, residual = (channels_last(torch.randn(2, 16, *sides[:ndim])) for _ in range(2))
    expected, with_residual = exact(made, x), exact(made, x, residual)
    found, convolution = torch.full_like(x, torch.nan), detour(made)
    convolution._compute(x, found, onto=False)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
    convolution._compute(x, residual, onto=True)
    torch.testing.assert_close(residual.double(), with_residual, rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [16, 48, 128])
def test_the_error_is_about_that_of_float32(channels: int) -> None:
    made, x = along(1, 3, channels), channels_last(torch.randn(1, channels, 4, 40, 20))
    expected = exact(made, x)
    error, direct = (
        (y.double() - expected).std() for y in (detour(made)(x, Memory()), made.plain(x))
    )
    assert error < 4 * direct


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("side", [1, 2, 5, 8, 13])
def test_nothing_outside_the_tensors_is_read_or_written(axis: int, side: int) -> None:
    made = along(axis, 3)
    shape = (1, 16, *(side if d == axis else 3 for d in range(3)))
    x, _ = framed(shape, torch.nan)
    x.normal_()
    found, whole = framed(shape, 7.0)
    detour(made)._compute(x, found, onto=False)
    torch.testing.assert_close(found.double(), exact(made, x), rtol=0, atol=1e-5)
    assert int((whole != 7).sum()) <= found.numel()
    assert bool((whole[:4096] == 7).all())
    assert bool((whole[-4096:] == 7).all())


def test_threads_do_not_disturb_each_other() -> None:
    made = detour(along(1, 3))
    images = [channels_last(torch.randn(1, 16, 6, 9, 5)) for _ in range(8)]
    expected = [made(x, Memory()) for x in images]

    def all_the_same(number: int) -> bool:
        return all(torch.equal(made(images[number], Memory()), expected[number]) for _ in range(50))

    with ThreadPoolExecutor(len(images)) as threads:
        assert all(threads.map(all_the_same, range(len(images))))


def test_memory_that_was_used_before_is_taken() -> None:
    made, x = along(2, 3), channels_last(torch.randn(1, 16, 32, 32, 32))
    memory = Memory()
    memory.give(used := torch.full_like(x, torch.nan))
    found = detour(made)(x, memory)
    assert found.data_ptr() == used.data_ptr()
    torch.testing.assert_close(found.double(), exact(made, x), rtol=0, atol=1e-5)


def test_an_axis_too_short_for_the_dilation_is_convolved_directly() -> None:
    made, x = along(0, 2, dilation=16), channels_last(torch.randn(1, 16, 24, 8))
    convolution = detour(made)
    assert not convolution._is_worthwhile(x)
    assert torch.equal(convolution(x, Memory()), made(x, Memory()))
    assert torch.equal(convolution.onto(x, x.clone()), made.onto(x, x.clone()))
    assert convolution._is_worthwhile(channels_last(torch.randn(1, 16, 64, 8)))


def test_other_convolutions_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = nn.Conv2d(16, 16, 3, padding=1)
    strided, wide = nn.Conv2d(16, 16, (3, 1), stride=2), nn.Conv2d(16, 16, (5, 1), padding=(2, 0))
    unpadded, more = nn.Conv2d(16, 16, (3, 1)), nn.Conv2d(16, 32, (3, 1), padding=(1, 0))
    few = nn.Conv2d(8, 8, (3, 1), padding=(1, 0))
    for other in (whole, strided, wide, unpadded, more, few):
        made = fold(other, None)
        assert faster(made) is made
    coarse = fold(nn.Conv2d(16, 16, (3, 1), padding=(1, 0)), None, dtype=torch.bfloat16)
    assert faster(coarse) is coarse
    monkeypatch.setattr(winograd, "is_available", lambda: False)
    made = along(0, 2)
    assert faster(made) is made


def test_it_needs_avx2_and_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    available = is_available.__wrapped__
    assert available()
    with monkeypatch.context() as patched:
        patched.setattr(winograd, "_agrees", lambda: False)
        assert not available()
    with monkeypatch.context() as patched:
        patched.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
        assert not available()
    monkeypatch.setattr("numba.config.DISABLE_JIT", True)
    assert not available()


def test_slower_convolutions_are_used_if_compiling_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> bool:
        raise RuntimeError("LLVM knows no such operation")

    monkeypatch.setattr(winograd, "_agrees", fail)
    assert not is_available.__wrapped__()
    assert "slower convolutions" in caplog.text
    assert "LLVM knows no such operation" in caplog.text
