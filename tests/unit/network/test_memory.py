"""Memory of large tensors is used again, and never by two at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import embedseg_large as es
from embedseg_large.network.memory import Memory

LIKE = torch.empty(0)
LARGE = (512, 1024)


def test_what_was_given_is_taken_again_also_for_another_shape() -> None:
    memory = Memory()
    first = memory.take(LIKE, LARGE)
    memory.give(first[3:])  # a view stands for its storage
    second = memory.take_channels_last(LIKE, (1, 8, 256, 256))
    assert second.data_ptr() == first.data_ptr()
    assert second.is_contiguous(memory_format=torch.channels_last)


def test_it_is_taken_by_one_only() -> None:
    memory = Memory()
    first = memory.take(LIKE, LARGE)
    memory.give(first)
    memory.give(first.view(-1))
    taken = [memory.take(LIKE, LARGE) for _ in range(2)]
    assert len({tensor.data_ptr() for tensor in taken}) == 2


@pytest.mark.parametrize("shape", [(256, 1024), (1025, 1024)], ids=["smaller", "far larger"])
def test_memory_of_another_size_is_left(shape: tuple[int, int]) -> None:
    memory = Memory()
    memory.give(given := LIKE.new_empty(shape))
    assert memory.take(LIKE, LARGE).data_ptr() != given.data_ptr()
    assert memory.take(LIKE, shape).data_ptr() == given.data_ptr()


def test_another_dtype_has_memory_of_its_own() -> None:
    memory = Memory()
    memory.give(given := LIKE.new_empty(LARGE))
    assert memory.take(LIKE.to(torch.float64), LARGE).data_ptr() != given.data_ptr()


def test_threads_never_share_a_tensor() -> None:
    memory = Memory()

    def worked(number: int) -> bool:
        tensor = memory.take(LIKE, LARGE).fill_(number)
        kept = bool((tensor == number).all())
        memory.give(tensor)
        return kept

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(worked, range(64)))


@pytest.mark.parametrize("tta", ["none", "16"])
def test_passes_in_used_memory_have_the_same_bits(
    tta: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = es.load_model("nuclei-3d").to(lanes=2)
    image = np.random.default_rng(0).random((48, 40, 64), np.float32)
    found = model.predict_raw(image, tta)
    monkeypatch.setattr(Memory, "give", lambda *_: None)
    np.testing.assert_array_equal(found, model.predict_raw(image, tta))
