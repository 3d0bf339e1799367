"""The loss has the values and gradients of the original, and of its plain definition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from embedseg_large.errors import UsageError
from embedseg_large.training.data.targets import Batch, Sample, collate
from embedseg_large.training.loss.instance import instance_loss, tensor_term
from embedseg_large.training.loss.instance_cpu import TermGradients, instance_term
from embedseg_large.training.loss.loss import (
    LossTerms,
    LossWeights,
    _choose_kernels,
    embedding_loss,
)

PARITY = Path(__file__).parents[3] / "data" / "parity" / "loss_3d.npz"
TERMS = ("instance", "variance", "seed")
PITCH = {2: (0.05, 0.03), 3: (0.08, 0.05, 0.03)}
FOREGROUND_WEIGHT = 7.0


def only(term: str) -> LossWeights:
    return LossWeights(**{name: float(name == term) for name in TERMS})


class Plain(NamedTuple):
    """The terms of one sample, as the paper writes them: a mask an instance, and a loop."""

    instance: Tensor
    variance: Tensor
    seed: Tensor
    overlaps: list[float]


def masks_of(sample: Sample) -> Iterator[tuple[Tensor, Tensor]]:
    """Mask and centre (z, y, x in voxels) of each instance that has a voxel that counts."""
    for k, center in enumerate(sample.centers):
        mask = sample.labels == k + 1 if sample.masks is None else sample.masks[k]
        mask = mask & (sample.labels != -1)
        if mask.any():
            mean = np.argwhere(mask).mean(axis=0)
            at = mean if np.isnan(center).any() else center
            yield torch.from_numpy(mask), torch.from_numpy(at.astype(np.float32)).double()


def plain_loss(raw: Tensor, sample: Sample, pitch: Sequence[float]) -> Plain:
    """The terms of one sample, from its raw channels (channels, *spatial) in float64."""
    ndim = len(pitch)
    counts = torch.from_numpy(sample.labels != -1)
    spans = torch.tensor(pitch, dtype=torch.float64)
    offsets = torch.stack([raw[ndim - 1 - d].tanh() for d in range(ndim)], dim=-1)
    sigmas = torch.stack([raw[2 * ndim - 1 - d] for d in range(ndim)], dim=-1)
    seeds = raw[2 * ndim].sigmoid()
    grid = torch.from_numpy(np.moveaxis(np.indices(sample.labels.shape), 0, -1))
    embedding = offsets + grid * spans
    zero = raw.sum() * 0
    instance, variance, overlaps = [], [], []
    seed = seeds[torch.from_numpy(sample.labels == 0)].square().sum()
    for mask, center in masks_of(sample):
        mean = sigmas[mask].mean(dim=0)
        phi = (-((embedding - center * spans).square() * (10 * mean).exp()).sum(-1)).exp()
        instance.append(plain_hinge(2 * phi[counts] - 1, mask[counts]))
        variance.append((sigmas[mask] - mean).square().mean())
        seed = seed + FOREGROUND_WEIGHT * (seeds[mask] - phi[mask].detach()).square().sum()
        inside = (phi > 0.5) & counts
        overlaps.append(((inside & mask).sum() / (inside | mask).sum()).item())
    return Plain(
        torch.stack(instance).mean() if instance else zero,
        torch.stack(variance).mean() if variance else zero,
        seed / counts.sum(),
        overlaps,
    )


def plain_hinge(logits: Tensor, mask: Tensor) -> Tensor:
    """The Lovász hinge of one instance."""
    errors, order = (1 - logits * torch.where(mask, 1.0, -1.0)).sort(descending=True)
    inside = mask[order].double()
    jaccard = 1 - (inside.sum() - inside.cumsum(0)) / (inside.sum() + (1 - inside).cumsum(0))
    return errors.clamp(min=0) @ torch.diff(jaccard, prepend=jaccard.new_zeros(1))


def some_sample(shape: tuple[int, ...], *, overlap: bool, ignore: bool, seed: int) -> Sample:
    """Boxes as objects, the later over the earlier or overlapping; some centres lost."""
    rng = np.random.default_rng(seed)
    count, ndim = 5, len(shape)
    masks = np.zeros((count, *shape), bool)
    for mask in masks:
        start = [rng.integers(0, n - 3) for n in shape]
        mask[tuple(slice(a, a + rng.integers(2, 6)) for a in start)] = True
    labels = np.zeros(shape, np.int32)
    for k, mask in enumerate(masks):
        labels[mask] = k + 1
    if ignore:
        labels[rng.random(shape) < 0.2] = -1
    centers = np.array([np.argwhere(mask)[0] for mask in masks], np.float32).reshape(count, ndim)
    centers[1] = np.nan
    image = np.zeros((1, *shape), np.float32)
    return Sample(image, labels, masks if overlap else None, centers)


def some_raw(batch: Batch, seed: int = 0) -> Tensor:
    """Channels of a network that has learned something, float64."""
    generator = torch.Generator().manual_seed(seed)
    count, ndim = len(batch.image), batch.centers.shape[1]
    shape = (count, 2 * ndim + 1, *batch.image.shape[2:])
    raw = 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64)
    raw[:, ndim : 2 * ndim] += 0.5
    return raw.requires_grad_()


def loss_of(raw: Tensor, batch: Batch, weights: LossWeights | None = None) -> LossTerms:
    pitch = PITCH[batch.centers.shape[1]]
    return embedding_loss(
        raw, batch, pitch=pitch, foreground_weight=FOREGROUND_WEIGHT, weights=weights
    )


def gradient(value: Tensor, raw: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(value, raw, retain_graph=True)
    return result


def original_sample(method: str) -> tuple[Tensor, Sample, tuple[float, ...]]:
    """Raw channels, crop and pitch of the fixture."""
    with np.load(PARITY) as data:
        labels = data["instances"].astype(np.int32)
        places = data[f"centres_{method}"]
        raw = torch.from_numpy(data["raw"].astype(np.float32))[None]
        pitch = tuple(data["pixel"] / (data["grid"] - 1))
    centers = np.full((labels.max(), 3), np.nan, np.float32)
    for place in places:  # in no particular order; one centroid lies outside its instance
        label = labels[tuple(place)]
        if label:
            centers[label - 1] = place
    return raw, Sample(np.zeros((1, *labels.shape), np.float32), labels, None, centers), pitch


@pytest.mark.parametrize("term", [*TERMS, "total"])
@pytest.mark.parametrize("method", ["medoid", "approximate_medoid", "centroid"])
def test_values_and_gradients_are_those_of_the_original(
    method: str, term: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, sample, pitch = original_sample(method)
    raw.requires_grad_()
    weights = LossWeights() if term == "total" else only(term)
    batch = collate([sample])
    calls = spied(monkeypatch)
    found = embedding_loss(raw, batch, pitch=pitch, foreground_weight=10, weights=weights).total
    with np.load(PARITY) as data:
        if found.item() != pytest.approx(data[f"{method}_{term}"], rel=2e-6):
            # it failed in one of ten runs before MKL chose its kernels on one thread: say more
            embedding_loss(raw, batch, pitch=pitch, foreground_weight=10, weights=weights)
            pytest.fail(f"{found.item()!r}; computed again: {differences(*calls)}")
        norm = gradient(found, raw).norm().item()
        assert norm == pytest.approx(data[f"{method}_{term}_grad_l2"], rel=2e-6)


class Sizes(TorchFunctionMode):
    """Notes on how many numbers tanh and exp are called."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[str, list[int]] = {"tanh": [], "exp": []}

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function.__name__ in self.of:
            self.of[function.__name__].append(args[0].numel())
        return function(*args, **(kwargs or {}))


def test_kernels_are_chosen_by_one_thread_before_a_tensor_is_shared_among_several() -> None:
    raw, sample, pitch = original_sample("medoid")
    _choose_kernels.cache_clear()
    with Sizes() as sizes:
        embedding_loss(raw, collate([sample]), pitch=pitch, foreground_weight=10)
    assert sizes.of["tanh"][0] == sizes.of["exp"][0] == 1
    assert max(sizes.of["tanh"]) > 2**15  # what torch shares among threads


def spied(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, np.ndarray]]:
    """What goes into the compiled instance term, and what comes out, call by call."""
    calls: list[dict[str, np.ndarray]] = []

    def spy(*arguments: Any) -> TermGradients:
        gaussians, members = ({n: a.copy() for n, a in x._asdict().items()} for x in arguments[:2])
        outcome = instance_term(*arguments)
        results = {n: getattr(outcome, n).copy() for n in ("losses", "phi", "overlaps")}
        calls.append(gaussians | members | results)
        return outcome

    monkeypatch.setattr("embedseg_large.training.loss.instance.instance_term", spy)
    return calls


def differences(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> str:
    """Where two calls differ, and how."""
    said = []
    for name in first:
        places = np.argwhere(first[name] != second[name])
        if len(places):
            at = tuple(places[0].tolist())
            said.append(
                f"{name} in {len(places)} of {first[name].size} places, "
                f"{at}: {first[name][at]!r} then {second[name][at]!r}"
            )
    return "; ".join(said) or "no difference"


@pytest.mark.parametrize("ignore", [False, True], ids=["annotated", "ignored"])
@pytest.mark.parametrize("overlap", [False, True], ids=["labels", "masks"])
@pytest.mark.parametrize("shape", [(16, 24), (8, 8, 16)], ids=["2d", "3d"])
def test_every_term_is_its_plain_definition(
    shape: tuple[int, ...], overlap: bool, ignore: bool
) -> None:
    samples = [some_sample(shape, overlap=overlap, ignore=ignore, seed=s) for s in range(3)]
    batch = collate(samples)
    raw = some_raw(batch)
    plain = [plain_loss(r, s, PITCH[len(shape)]) for r, s in zip(raw, samples, strict=True)]
    found = loss_of(raw, batch)
    torch.testing.assert_close(
        found.overlaps.tolist(), [x for p in plain for x in p.overlaps], rtol=1e-6, atol=0
    )
    for name in TERMS:
        expected = torch.stack([getattr(p, name) for p in plain]).mean()
        torch.testing.assert_close(getattr(found, name), expected.detach(), rtol=1e-7, atol=0)
        torch.testing.assert_close(
            gradient(loss_of(raw, batch, only(name)).total, raw),
            gradient(expected, raw),
            rtol=1e-6,
            atol=1e-10,
        )


@pytest.mark.parametrize("term", ["instance", "variance"])
@pytest.mark.parametrize("shape", [(8, 8), (4, 4, 4)], ids=["2d", "3d"])
def test_the_gradient_is_that_of_finite_differences(shape: tuple[int, ...], term: str) -> None:
    batch = collate([some_sample(shape, overlap=True, ignore=True, seed=4)])
    assert torch.autograd.gradcheck(
        lambda raw: loss_of(raw, batch, only(term)).total, some_raw(batch), atol=1e-6
    )


def test_the_seed_term_teaches_the_seed_and_not_the_embedding() -> None:
    batch = collate([some_sample((8, 8), overlap=False, ignore=True, seed=4)])
    raw = some_raw(batch)
    slope = gradient(loss_of(raw, batch, only("seed")).total, raw)
    assert (slope[:, :-1] == 0).all()

    def by_logit(logits: Tensor) -> Tensor:
        return loss_of(torch.cat([raw[:, :-1].detach(), logits], 1), batch, only("seed")).total

    assert torch.autograd.gradcheck(by_logit, raw[:, -1:].detach().requires_grad_())


@pytest.mark.parametrize("scale", [0.1, 1, 4], ids=["learned", "random", "wild"])
@pytest.mark.parametrize("shape", [(16, 24), (8, 16, 24)], ids=["2d", "3d"])
def test_tensors_and_compiled_loops_give_the_same_instance_term(
    shape: tuple[int, ...], scale: float
) -> None:
    samples = [some_sample(shape, overlap=True, ignore=True, seed=s) for s in range(2)]
    batch, ndim = collate(samples), len(shape)
    generator = torch.Generator().manual_seed(1)
    size = batch.annotated[0].numel()
    embedding = scale * torch.randn((2, ndim, size), generator=generator, dtype=torch.float64)
    centers = embedding[0, :, : len(batch.sizes)].T + 0.01
    precisions = 1 + torch.rand(centers.shape, generator=generator, dtype=torch.float64)
    weights = torch.rand(len(centers), generator=generator, dtype=torch.float64)
    inputs = embedding.requires_grad_(), centers, precisions.requires_grad_()
    compiled = instance_loss(*inputs, batch, weights)
    tensors = tensor_term(*inputs, batch, weights)
    for ours, theirs in zip(compiled, tensors, strict=True):
        torch.testing.assert_close(ours, theirs, check_dtype=False)
    for x in inputs[::2]:  # errors that agree to 24 bits may be passed in either order
        ours, theirs = gradient(compiled.total, x), gradient(tensors[0], x)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_loss_does_not_depend_on_the_number_of_threads(threads: int) -> None:
    batch = collate([some_sample((8, 8, 16), overlap=False, ignore=True, seed=s) for s in range(4)])
    raw = some_raw(batch).detach().float().requires_grad_()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = gradient(loss_of(raw, batch, only("instance")).total, raw)
        torch.set_num_threads(threads)
        assert torch.equal(gradient(loss_of(raw, batch, only("instance")).total, raw), expected)
    finally:
        torch.set_num_threads(before)


def test_ignored_padding_changes_nothing() -> None:
    sample = some_sample((16, 24), overlap=False, ignore=False, seed=2)
    padded = replace(
        sample,
        image=np.pad(sample.image, ((0, 0), (0, 8), (0, 8))),
        labels=np.pad(sample.labels, (0, 8), constant_values=-1),
    )
    batch, larger = collate([sample]), collate([padded])
    raw = some_raw(larger)
    alone = loss_of(raw[..., :16, :24], batch)
    together = loss_of(raw, larger)
    torch.testing.assert_close(together.total, alone.total)
    torch.testing.assert_close(together.overlaps, alone.overlaps)
    outside = gradient(together.total, raw)
    outside[..., :16, :24] = 0
    assert (outside == 0).all()


def test_perfect_channels_have_next_to_no_loss() -> None:
    sample = some_sample((16, 24), overlap=False, ignore=False, seed=2)
    batch = collate([sample])
    raw = torch.zeros(1, 5, 16, 24)
    raw[:, -1] = torch.where(batch.background, -20.0, 20.0)
    grid = torch.from_numpy(np.indices((16, 24)).astype(np.float32))
    centers = batch.centers[batch.instances].T
    flat = raw.flatten(2)
    for axis, pitch in enumerate(PITCH[2]):
        steps = (centers[axis] - grid[axis].flatten()[batch.voxels]) * pitch
        flat[0, 1 - axis, batch.voxels] = steps.atanh()
    flat[0, 2:4] = 0.8
    found = loss_of(raw, batch)
    assert found.total < 0.05
    assert (found.overlaps > 0.9).all()


def test_a_crop_of_background_has_only_a_seed_term() -> None:
    empty = Sample(
        np.zeros((1, 8, 8), np.float32),
        np.zeros((8, 8), np.int32),
        None,
        np.zeros((0, 2), np.float32),
    )
    ignored = replace(empty, labels=np.full((8, 8), -1, np.int32))
    batch = collate([empty, ignored])
    raw = some_raw(batch)
    found = loss_of(raw, batch)
    assert found.instance == found.variance == 0
    torch.testing.assert_close(found.seed, raw[0, -1].sigmoid().square().mean() / 2)
    assert gradient(found.total, raw).isfinite().all()
    assert found.overlaps.shape == (0,)


def test_half_precision_and_autocast_compute_in_float32() -> None:
    batch = collate([some_sample((16, 24), overlap=False, ignore=False, seed=2)])
    half = some_raw(batch).detach().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss_of(half, batch)
    assert found.total.dtype == torch.float32
    assert found.total == loss_of(half.float(), batch).total


def test_channels_that_are_no_numbers_give_a_loss_that_is_none() -> None:
    batch = collate([some_sample((16, 24), overlap=False, ignore=False, seed=2)])
    assert loss_of(torch.full_like(some_raw(batch), torch.nan), batch).total.isnan()


def test_what_does_not_fit_is_refused() -> None:
    batch = collate([some_sample((16, 24), overlap=False, ignore=False, seed=2)])
    raw = some_raw(batch)
    with pytest.raises(UsageError, match="network output"):
        loss_of(raw[:, :-1], batch)
    with pytest.raises(UsageError, match="2 positive numbers"):
        embedding_loss(raw, batch, pitch=(0.1, 0.1, 0.1), foreground_weight=10)
