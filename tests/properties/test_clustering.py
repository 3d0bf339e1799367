"""The compiled rule against a plain reading of it, and the truth of its certificates."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedseg_large.clustering.cluster import cluster, cluster_points, points_of_embedding
from embedseg_large.clustering.settings import ClusteringSettings
from embedseg_large.embedding import Embedding
from embedseg_large.geometry import Box

MARGINS = st.sampled_from([0.2, 0.35, 0.5, 0.65, 0.8])


def plain_cluster(
    embedding: Embedding,
    min_object_size: int,
    reach: tuple[float, ...] | None = None,
    margin: float = 0.5,
) -> NDArray[np.int64]:
    """The rule, word for word; labels are the raveled index of the seed voxel plus one."""
    ndim, shape = embedding.ndim, embedding.shape
    grid = np.indices(shape, dtype=float).reshape(ndim, -1)
    offsets = embedding.offsets.reshape(ndim, -1).astype(float)
    sigmas = embedding.sigmas.reshape(ndim, -1).astype(float)
    seeds = embedding.seeds.reshape(-1)
    foreground = seeds > np.float32(0.5)
    if reach is not None:
        limit = np.array(reach)[:, None]
        foreground &= (abs(offsets) <= limit).all(axis=0)
        sigmas = np.minimum(sigmas, limit / 2 / np.sqrt(-2 * np.log(margin)))
    points = grid + offsets
    labels = np.zeros(seeds.size, np.int64)
    claimed = np.zeros(seeds.size, bool)
    while True:
        open_ = foreground & ~claimed & (seeds >= np.float32(0.9))
        if not open_.any():
            return labels.reshape(shape)
        at = int(np.argmax(np.where(open_, seeds, -1)))
        claimed[at] = True
        distance = (points - points[:, at : at + 1]) ** 2 / (2 * sigmas[:, at : at + 1] ** 2)
        proposal = foreground & (distance.sum(axis=0) < -np.log(margin))
        if proposal.sum() > min_object_size and 2 * (proposal & ~claimed).sum() > proposal.sum():
            labels[proposal] = at + 1
        claimed |= proposal


@st.composite
def embeddings(draw: st.DrawFn, ndims: tuple[int, ...] = (2, 3)) -> Embedding:
    """Random embeddings with what is awkward: plateaus, chains, far-pointing offsets."""
    ndim = draw(st.sampled_from(ndims))
    most = 26 if ndim == 2 else 12
    shape = tuple(draw(st.integers(1, most)) for _ in range(ndim))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    centres = rng.uniform(0, np.array(shape), size=(draw(st.integers(1, 8)), ndim))
    grid = np.indices(shape, dtype=float)
    distance = ((grid[None] - centres.reshape(-1, ndim, *(1,) * ndim)) ** 2).sum(axis=1)
    nearest = centres[distance.argmin(axis=0)]
    offsets = np.moveaxis(nearest, -1, 0) - grid
    offsets += rng.normal(0, draw(st.sampled_from([0.0, 0.3, 2.0])), offsets.shape)
    if draw(st.booleans()):
        wild = rng.random(shape) < 0.05
        offsets[:, wild] *= 5
    sigmas = rng.uniform(0.3, draw(st.sampled_from([0.5, 1.5, 4.0])), offsets.shape)
    seeds = rng.uniform(0.3, 1, shape)
    levels = draw(st.sampled_from([2, 8, 1000]))  # few levels: plateaus of equal seeds
    seeds = np.round(seeds * levels) / levels
    # Stored predictions are float16; the product forms embeddings of these.
    as_stored = offsets.astype(np.float16).astype(np.float32)
    return Embedding(as_stored, sigmas.astype(np.float32), seeds.astype(np.float32))


def same_up_to_names(a: NDArray[np.integer], b: NDArray[np.integer]) -> bool:
    pairs = np.unique(np.stack([a.reshape(-1), b.reshape(-1)]), axis=1)
    return len(set(pairs[0])) == pairs.shape[1] == len(set(pairs[1])) and bool(
        ((a > 0) == (b > 0)).all()
    )


@given(embeddings(), st.integers(0, 6), MARGINS)
@settings(max_examples=250, deadline=None)
def test_the_compiled_rule_is_the_rule(embedding: Embedding, size: int, margin: float) -> None:
    labels = cluster(embedding, min_object_size=size, margin=margin)
    assert same_up_to_names(labels, plain_cluster(embedding, size, margin=margin))
    assert set(np.unique(labels)) | {0} == set(range(int(labels.max()) + 1))


@given(embeddings(), st.integers(0, 6))
@settings(max_examples=50, deadline=None)
def test_numbers_fall_with_seediness(embedding: Embedding, size: int) -> None:
    labels = cluster(embedding, min_object_size=size)
    best = [embedding.seeds[labels == i].max(initial=0) for i in range(1, int(labels.max()) + 1)]
    everywhere = plain_cluster(embedding, size)
    seeds = [embedding.seeds.reshape(-1)[name - 1] for name in np.unique(everywhere) if name]
    assert len(best) == len(seeds)


@given(embeddings(), st.integers(0, 6), st.sampled_from([2.0, 4.0]), MARGINS, st.data())
@settings(max_examples=500, deadline=None)
def test_what_is_certain_in_a_region_is_so_in_the_volume(
    embedding: Embedding, size: int, far: float, margin: float, data: st.DataObject
) -> None:
    """A certified instance of any region is, voxel for voxel, one of the whole volume."""
    shape, ndim = embedding.shape, embedding.ndim
    reach = (far,) * ndim
    whole = plain_cluster(embedding, size, reach, margin)
    start = tuple(data.draw(st.integers(0, n // 2)) for n in shape)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True))
    region = Box(start, stop)
    part = Embedding(
        embedding.offsets[(slice(None), *region.slices)],
        embedding.sigmas[(slice(None), *region.slices)],
        embedding.seeds[region.slices],
    )
    rule = ClusteringSettings(min_object_size=size, reach=reach, margin=margin)
    sides = [(a > 0, b < n) for a, b, n in zip(start, stop, shape, strict=True)]
    faces = ((False, False),) * (3 - ndim) + tuple(sides)
    result = cluster_points(points_of_embedding(part, rule), rule, faces)
    labels = result.labels.reshape(region.shape)
    for number, seed in enumerate(result.seeds, start=1):
        if not result.certain[number - 1] or not (labels == number).any():
            continue
        at = np.unravel_index(seed, region.shape)
        voxel = tuple(int(a) + s for a, s in zip(at, start, strict=True))
        name = int(np.ravel_multi_index(voxel, shape)) + 1
        np.testing.assert_array_equal(whole[region.slices] == name, labels == number)
        assert (whole == name).sum() == (labels == number).sum()
    if region == Box.whole(shape):
        assert result.certain.all()
