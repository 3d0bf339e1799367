"""A chain that no random example finds: what might have been a seed casts doubt too."""

import numpy as np

from embedseg_large.clustering.cluster import cluster_points, points_of_embedding
from embedseg_large.clustering.settings import ClusteringSettings
from embedseg_large.embedding import Embedding

RULE = ClusteringSettings(min_object_size=1, reach=(4.0, 4.0))


def chain() -> Embedding:
    """One row. An unseen seed s claims u; so u does not claim v; so v, a seed, claims all t.

    A region that begins at voxel 10 sees u claim v, and t found an instance of its own.
    """
    embedding = {9: (13.0, 0.99), 14: (14.0, 0.98), 15: (15.4, 0.97)}
    embedding |= {17 + k: (16.8, 0.95 - k / 100) for k in range(4)}
    offsets = np.zeros((2, 1, 24), np.float32)
    seeds = np.zeros((1, 24), np.float32)
    for voxel, (place, seed) in embedding.items():
        offsets[1, 0, voxel] = place - voxel
        seeds[0, voxel] = seed
    bandwidth = np.full((2, 1, 24), 1.5)
    bandwidth[..., 15] = 1.9  # v sees all t, which do not see v
    bandwidth[..., 17:] = 1.0
    sigmas = (bandwidth / RULE.radius).astype(np.float32)
    return Embedding(offsets, sigmas, seeds)


def part(embedding: Embedding, start: int) -> Embedding:
    return Embedding(
        embedding.offsets[:, :, start:], embedding.sigmas[:, :, start:], embedding.seeds[:, start:]
    )


def test_a_chain_through_an_unseen_seed_is_not_certified() -> None:
    nothing_open = ((False, False),) * 3
    low_x_open = ((False, False), (False, False), (True, False))
    whole = cluster_points(points_of_embedding(chain(), RULE), RULE, nothing_open)
    seen = cluster_points(points_of_embedding(part(chain(), 10), RULE), RULE, low_x_open)
    assert whole.seeds.tolist() == [15]
    assert [seed + 10 for seed in seen.seeds.tolist()] == [17]
    assert not seen.certain.any()


def test_without_a_limit_on_offsets_nothing_can_be_certified() -> None:
    rule = ClusteringSettings(min_object_size=1)
    low_x_open = ((False, False), (False, False), (True, False))
    result = cluster_points(points_of_embedding(chain(), rule), rule, low_x_open)
    assert result.seeds.size > 0
    assert not result.certain.any()
