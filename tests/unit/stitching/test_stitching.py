"""The parts that put tiles together, each on a few voxels."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from embedseg_large.errors import RunError
from embedseg_large.geometry import Box
from embedseg_large.stitching.join import Joins, join
from embedseg_large.stitching.relabel import (
    Layers,
    Ranking,
    label_dtype,
    occurring,
    offsets,
    rename,
    settle,
)
from embedseg_large.stitching.tally import Entries, Roster, tally
from embedseg_large.stitching.tile_result import Frame, compare, make_result


def ids(*values: int) -> NDArray[np.uint64]:
    return np.array(values, dtype=np.uint64)


def test_seams_that_agree_need_nothing_more() -> None:
    result = compare(ids(0, 5, 5, 9), ids(0, 5, 5, 9))
    assert (result.voxels, result.disagreeing, result.ids.size) == (4, 0, 0)


def test_a_comparison_counts_only_what_is_about_ids_that_differ() -> None:
    result = compare(ids(5, 5, 5, 7, 0, 9), ids(5, 6, 6, 7, 6, 9))
    assert result.disagreeing == 3
    pairs = set(
        zip(result.low.tolist(), result.high.tolist(), result.overlap.tolist(), strict=True)
    )
    assert pairs == {(5, 5, 1), (5, 6, 2), (0, 6, 1)}
    assert result.ids.tolist() == [5, 6]


def test_names_that_lie_mostly_on_each_other_are_joined() -> None:
    joins = join([compare(ids(8, 8, 8, 3), ids(4, 4, 4, 3))])
    assert joins.apply(ids(3, 4, 8, 11)).tolist() == [3, 4, 4, 11]


def test_touching_objects_whose_border_is_disputed_are_not_joined() -> None:
    low, high = [1] * 10 + [2] * 10, [1] * 12 + [2] * 8
    joins = join([compare(ids(*low), ids(*high))])
    assert joins.ids.size == 0


def test_an_object_that_is_mostly_background_to_the_other_is_not_joined() -> None:
    assert join([compare(ids(4, 4, 4, 4), ids(0, 0, 0, 9))]).ids.size == 1  # 9 lies wholly on 4
    assert join([compare(ids(4, 4, 4, 4), ids(0, 0, 0, 0))]).ids.size == 0


def test_a_chain_of_joins_takes_its_smallest_name() -> None:
    seams = [compare(ids(30, 30), ids(20, 20)), compare(ids(20, 20), ids(10, 10))]
    assert join(seams).apply(ids(10, 20, 30)).tolist() == [10, 10, 10]


def test_labels_are_ranks_in_raster_order_across_layers() -> None:
    layers = Layers(depth=2, plane=10)
    stored = {0: ids(3, 20), 1: ids(), 2: ids(41, 60)}
    ranking = Ranking(layers, offsets([2, 0, 2]), stored.__getitem__)
    assert ranking.count == 4
    assert layers.of(ids(20, 21, 40, 41)).tolist() == [0, 1, 1, 2]
    assert ranking.labels(ids(60, 3, 41, 20)).tolist() == [4, 1, 3, 2]
    with pytest.raises(RunError, match="layer 1"):
        ranking.labels(ids(25))


def test_labels_grow_to_uint64_when_they_must() -> None:
    assert label_dtype(2**32 - 1) == np.uint32
    assert label_dtype(2**32) == np.uint64


def test_a_joined_name_leaves_its_layer_for_that_of_its_representative() -> None:
    layers = Layers(depth=1, plane=10)
    joins = Joins(ids(15), ids(5))
    assert settle(ids(2), 0, layers, joins, ids(15)).tolist() == [2, 5]
    assert settle(ids(12, 15), 1, layers, joins, ids(15)).tolist() == [12]


def entries(*rows: tuple[int, int, int, bool, bool, int]) -> Entries:
    """What tiles say, with the seediness that belongs to each id."""
    names, sizes, core_sizes, owned, certain, tile = (np.array(c) for c in zip(*rows, strict=True))
    names = names.astype(np.uint64)
    return Entries(names, sizes, core_sizes, owned, certain, seediness_of(names), tile)


def seediness_of(ids: NDArray[np.uint64]) -> NDArray[np.float32]:
    return (1 - ids / 64).astype(np.float32)


def test_an_instance_is_right_when_its_owner_saw_all_of_it() -> None:
    layers = Layers(depth=100, plane=100)
    result = tally(
        entries((7, 10, 6, True, True, 0), (7, 9, 4, False, True, 1), (9, 3, 3, True, False, 1)),
        layers,
        0,
    )
    assert result.alive.ids.tolist() == [7, 9]
    assert result.alive.sure.tolist() == [True, False]
    assert result.alive.seediness.tolist() == seediness_of(ids(7, 9)).tolist()
    assert result.wrong.size == 0


@pytest.mark.parametrize(
    "rows",
    [
        [(7, 10, 6, True, True, 0), (7, 9, 3, False, True, 1)],  # a voxel is missing
        [(7, 4, 4, False, True, 1)],  # nobody owns it
        [(7, 4, 0, True, True, 0)],  # its voxels are nowhere
    ],
)
def test_an_account_that_does_not_add_up_is_wrong(
    rows: list[tuple[int, int, int, bool, bool, int]],
) -> None:
    result = tally(entries(*rows), Layers(depth=100, plane=100), 0)
    assert result.wrong.tolist() == [7]
    assert result.wrong_tiles.tolist() == sorted({row[-1] for row in rows})


def test_nobody_accounts_for_instances_whose_seed_is_in_no_core() -> None:
    rows = [(7, 4, 4, False, True, 1), (9, 4, 3, True, True, 1)]
    result = tally(entries(*rows), Layers(depth=100, plane=100), 0, ids(7))
    assert result.alive.ids.tolist() == [7, 9]
    assert result.wrong.tolist() == [9]


def test_what_is_known_of_instances_goes_with_their_names() -> None:
    roster = Roster(ids(3, 7, 9), np.array([True, True, False]), seediness_of(ids(3, 7, 9)))
    joined = roster.of(ids(2, 7, 9))
    assert joined.sure.tolist() == [False, True, False]
    assert np.isnan(joined.seediness[0]), "of a name that comes from elsewhere nothing is known"
    assert joined.seediness[1:].tolist() == roster.seediness[1:].tolist()


def test_a_view_names_instances_by_their_seed_in_the_volume() -> None:
    labels = np.array([[1, 1, 0, 2], [1, 0, 2, 2]], dtype=np.uint32)
    result = make_result(
        labels,
        seeds=np.array([4, 3]),
        certain=np.array([True, False]),
        doubtful=np.array([3]),
        seediness=np.array([0.75, 0.5], np.float32),
        frame=Frame(
            region=Box((5, 10), (7, 14)),
            core=Box((5, 10), (7, 12)),
            seams=[Box((5, 11), (7, 13))],
            volume_shape=(20, 30),
        ),
    )
    assert result.ids.tolist() == [5 * 30 + 13 + 1, 6 * 30 + 10 + 1]
    assert result.core.tolist() == [[2, 2], [2, 0]]
    assert result.seams[0].tolist() == [[2, 0], [0, 1]]
    assert result.sizes.tolist() == [3, 3]
    assert result.core_sizes.tolist() == [0, 3]
    assert result.owned.tolist() == [False, True]
    assert result.certain.tolist() == [False, True]
    assert result.seediness.tolist() == [0.5, 0.75]
    assert result.exact, "the doubtful voxel is outside the core"


@pytest.mark.parametrize("shape", [(6, 9), (4, 6, 9)])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_labels_that_occur_get_their_names_wherever_they_lie(
    shape: tuple[int, ...], dtype: type[np.unsignedinteger], rng: np.random.Generator
) -> None:
    labels = rng.integers(0, 40, shape).astype(dtype)[..., 2:7]  # not contiguous, and not all
    names = rng.integers(0, 2**40, 50).astype(np.uint64)
    seen = occurring(labels, 50)
    assert np.flatnonzero(seen).tolist() == np.unique(labels).tolist()
    whole = np.zeros((*shape[:-1], 11), np.uint64)
    rename(labels, names, whole[..., 3:8])
    assert (whole[..., 3:8] == names[labels]).all()
    assert not whole[..., :3].any()
    assert not whole[..., 8:].any()


def test_names_in_proven_cores_are_never_joined_with_each_other() -> None:
    seams = [compare(ids(20, 20, 20), ids(10, 10, 10)), compare(ids(10, 10), ids(30, 30))]
    assert join(seams).apply(ids(10, 20, 30)).tolist() == [10, 10, 10]
    apart = join(seams, proven=ids(20, 30))
    assert apart.apply(ids(10, 20, 30)).tolist() == [20, 20, 30], "it lies more on 20"
    assert join(seams, proven=ids(10, 20, 30)).ids.size == 0


def test_a_name_that_is_joined_with_a_proven_one_takes_it() -> None:
    assert join([compare(ids(20, 20), ids(10, 10))], proven=ids(20)).apply(ids(10)).tolist() == [20]


def test_nothing_is_joined_with_an_instance_that_is_complete() -> None:
    seams = [compare(ids(20, 20), ids(10, 10)), compare(ids(7, 7), ids(8, 8))]
    assert join(seams, complete=ids(20)).apply(ids(7, 8, 10, 20)).tolist() == [7, 7, 10, 20]


def test_a_count_that_adds_up_does_not_make_an_instance_certain() -> None:
    rows = [(7, 10, 6, True, True, 0), (7, 9, 4, False, False, 1)]
    result = tally(entries(*rows), Layers(depth=100, plane=100), 0)
    assert result.wrong.size == 0
    assert not result.alive.sure.any()
    beside = [rows[0], (7, 10, 4, False, True, 1), (7, 2, 0, False, False, 2)]
    sure = tally(entries(*beside), Layers(depth=100, plane=100), 0).alive.sure
    assert sure.all(), "a tile that holds no voxel of it need not be certain"
