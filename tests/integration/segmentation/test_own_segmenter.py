"""Any function from an image to labels runs on the engine, and its tiles leave no trace."""

from __future__ import annotations

from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

import embedseg_large as es
from embedseg_large.errors import EmbedSegError, RunError, UsageError
from embedseg_large.runs.progress import FailedTasks
from embedseg_large.testing.synthetic import render, synthetic_embryo
from embedseg_large.testing.tiers import slowly

Image = NDArray[np.float32]
Labels = NDArray[Any]


def truth(image: Image, shift: int = 0) -> Labels:
    """A perfect segmenter of an image of ids, with numbers of its own."""
    ids: Labels = image.astype(np.int64)
    return np.where(ids > 0, ids.max() + 1 + shift - ids, 0)


def jittering(image: Image, jitter: float) -> Labels:
    """One whose outlines depend on all that it sees: they are bent by a random smooth field."""
    ids = image.astype(np.int64)
    rng = np.random.default_rng(int(sha256(ids.tobytes()).hexdigest()[:8], 16))
    at = np.indices(ids.shape).astype(np.float32)
    for axis in at:
        coarse = rng.normal(0, jitter, [max(2, n // 6) for n in ids.shape])
        zoom = [n / m for n, m in zip(ids.shape, coarse.shape, strict=True)]
        axis += ndimage.zoom(coarse, zoom, order=1)
    bent = [np.clip(np.rint(a), 0, n - 1).astype(int) for a, n in zip(at, ids.shape, strict=True)]
    labels: Labels = ids[tuple(bent)]
    return labels


def own(function: Any = truth, ndim: int = 3, **more: Any) -> es.TileSegmenter:
    about: dict[str, Any] = {"tile": (30,) * ndim, "halo": (12,) * ndim, "intensity": "raw"}
    return es.TileSegmenter(function, name="mine", ndim=ndim, **(about | more))


def embryo(ndim: int, **more: Any) -> Labels:
    shape = {2: (90, 100), 3: (44, 60, 52)}[ndim]
    return synthetic_embryo(shape, density=0.5, diameter=10, seed=3, **more).astype(np.uint16)


def run(image: Any, segmenter: es.TileSegmenter, out: Path, **options: Any) -> es.SegmentResult:
    return es.segment(image, segmenter, output=out, overwrite=True, **options)


def same_objects(found: Labels, expected: Labels) -> bool:
    """Whether two labellings are the same up to their numbers."""
    pairs = np.unique(np.stack([found.ravel(), expected.ravel()]), axis=1)
    return all(len(np.unique(side)) == pairs.shape[1] for side in pairs)


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_local_segmenter_gives_the_labels_of_the_whole(tmp_path: Path, ndim: int) -> None:
    ids = embryo(ndim)
    tiled = run(ids, own(ndim=ndim), tmp_path / "a.zarr")
    assert tiled.seams.joined == 0
    assert tiled.seams.agreed + tiled.seams.repaired == tiled.n_instances > 20
    assert same_objects(np.asarray(tiled.labels), ids)
    other = run(ids, own(ndim=ndim), tmp_path / "b.zarr", cluster_tile=(25, 47, 31)[-ndim:])
    np.testing.assert_array_equal(np.asarray(tiled.labels), np.asarray(other.labels))


def test_nothing_is_certified_of_a_segmenter_that_is_not_ours(tmp_path: Path) -> None:
    seams = run(embryo(3), own(), tmp_path / "out.zarr").seams
    assert (seams.certified, seams.tiles_exact) == (0, 0)
    assert seams.tiles == 2 * 2 * 2


@pytest.mark.slow
def test_worker_processes_give_the_same_bytes(tmp_path: Path, client: Any) -> None:
    ids = embryo(2)
    segmenter = own(partial(jittering, jitter=0.7), ndim=2)
    one = run(ids, segmenter, tmp_path / "one.zarr", max_halo=(12, 12))
    two = run(ids, segmenter, tmp_path / "two.zarr", max_halo=(12, 12), client=client)
    assert one.seams.joined > 0
    np.testing.assert_array_equal(np.asarray(one.labels), np.asarray(two.labels))
    assert one.seams.joined_objects == two.seams.joined_objects


@pytest.mark.parametrize("spacing", [1.2, 0.9, 0.75])
def test_what_tiles_see_differently_is_neither_doubled_nor_merged(
    tmp_path: Path, spacing: float
) -> None:
    ids = embryo(3, spacing=spacing)
    function = partial(jittering, jitter=0.8)
    whole = function(ids.astype(np.float32)).astype(np.uint32)
    result = run(ids, own(function), tmp_path / "out.zarr", max_halo=(12, 12, 12))
    found = np.asarray(result.labels)
    (score,) = es.evaluate(found, whole, thresholds=(0.5,))
    assert result.seams.joined >= result.seams.matched > 0
    assert score.f1 > 0.97
    assert sorted(np.unique(found)) == list(range(result.n_instances + 1))


def clumsy(image: Image) -> Labels:
    """One that takes neighbours for one object where it sees little."""
    ids = truth(image)
    return np.where(ids > 0, 1 + ids // 3, 0) if image.shape[-1] < 45 else ids


def test_matched_objects_have_the_outlines_that_each_tile_sees_in_its_core(tmp_path: Path) -> None:
    ids, halo = embryo(2), 12
    segmenter = own(partial(jittering, jitter=0.7), ndim=2)
    result = run(ids, segmenter, tmp_path / "out.zarr", max_halo=(halo, halo))
    found = np.asarray(result.labels)
    assert result.seams.matched == result.seams.joined > 0
    core, region = np.s_[30:60, 60:90], np.s_[30 - halo : 60 + halo, 60 - halo : 90 + halo]
    seen = jittering(ids[region].astype(np.float32), 0.7)[halo:-halo, halo : halo + 30]
    np.testing.assert_array_equal(found[core] > 0, seen > 0)
    assert same_objects(found[core], seen)


def test_owners_decide_where_tiles_disagree_about_what_is_one_object(tmp_path: Path) -> None:
    ids = embryo(2, spacing=0.8)
    result = run(ids, own(clumsy, ndim=2), tmp_path / "out.zarr", max_halo=(12, 12))
    assert result.seams.joined > result.seams.matched > 0
    assert result.summary["seams"]["matched"] == result.seams.matched
    found = np.asarray(result.labels)
    np.testing.assert_array_equal(found > 0, ids > 0)


def test_an_object_longer_than_all_halos_is_one_object_and_reported(tmp_path: Path) -> None:
    ids = np.zeros((24, 24, 150), np.uint16)
    ids[10:14, 10:14, 5:145] = 1
    ids[4:8, 4:8, 20:26] = 2
    segmenter = own(tile=(24, 24, 24), halo=(6, 6, 6))
    result = run(ids, segmenter, tmp_path / "out.zarr")
    assert same_objects(np.asarray(result.labels), ids)
    assert [ids[o.seed] for o in result.seams.joined_objects] == [1]


def test_a_region_has_the_labels_of_the_whole(tmp_path: Path) -> None:
    ids = embryo(3)
    region = (slice(8, 40), slice(10, 50), slice(0, 45))
    found = np.asarray(run(ids, own(), tmp_path / "out.zarr", region=region).labels)
    assert same_objects(found[region], ids[region])
    found[region] = 0
    assert not found.any()


def test_a_mask_is_kept(tmp_path: Path) -> None:
    ids = embryo(3)
    mask = np.zeros(ids.shape, np.uint8)
    mask[:, :30] = 1
    found = np.asarray(run(ids, own(), tmp_path / "out.zarr", mask=mask).labels)
    assert same_objects(found, np.where(mask, ids, 0))


@pytest.mark.parametrize("name", ["percentiles", "otsu"])
def test_intensities_are_those_of_the_whole_volume(tmp_path: Path, name: str) -> None:
    """A tile that would normalise itself would find objects in its noise."""
    image = render(embryo(3)).astype(np.float32)
    image[:, 30:] *= 0.02
    bright = own(lambda tile: ndimage.label(tile > 1)[0], intensity=name, halo=(16,) * 3)
    assert not np.asarray(run(image, bright, tmp_path / "out.zarr").labels)[:, 35:].any()


def test_channels_come_first(tmp_path: Path) -> None:
    ids = embryo(3)
    both = es.open_volume(np.stack([np.zeros_like(ids), ids]), axes="czyx", channel=None)
    segmenter = own(lambda image: truth(image[1]), channels=2)
    assert same_objects(np.asarray(run(both, segmenter, tmp_path / "o.zarr").labels), ids)


def loader(device: str, shift: int, log: str) -> Any:
    with Path(log).open("a") as file:
        file.write(f"{device}\n")
    return partial(truth, shift=shift)


def test_a_network_is_loaded_once_a_worker(tmp_path: Path, client: Any) -> None:
    ids, log = embryo(3), tmp_path / "log"
    parameters = {"shift": 3, "log": str(log)}
    segmenter = own(None, load=loader, parameters=parameters)
    result = run(ids, segmenter, tmp_path / "out.zarr", client=client)
    assert same_objects(np.asarray(result.labels), ids)
    assert 1 <= len(log.read_text().splitlines()) <= 2


WRONG = {
    "an array of shape": lambda image: image.astype(int)[0],
    "float32 values": lambda image: image,
    "negative labels": lambda image: np.full(image.shape, -1),
}


@pytest.mark.parametrize("said", WRONG)
def test_what_are_no_labels_ends_the_run_and_names_the_tile(tmp_path: Path, said: str) -> None:
    watcher = FailedTasks()
    with pytest.raises(UsageError, match=rf"mine returned {said}.*tile \[0:42, 0:42, 0:42\]") as it:
        run(embryo(3), own(WRONG[said]), tmp_path / "out.zarr", watcher=watcher)
    assert "\n" not in str(it.value)
    assert len(watcher.failed) == 1


def test_a_function_that_fails_is_told_with_its_tile(tmp_path: Path) -> None:
    def broken(image: Image) -> Labels:  # noqa: ARG001
        raise ZeroDivisionError("no cells here")

    with pytest.raises(RunError, match=r"tile \[0:30.*ZeroDivisionError: no cells here"):
        run(embryo(3), own(broken), tmp_path / "out.zarr")


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"halo": (3,)}, "halo is .* needs 3 numbers"),
        ({"tile": (3, 3)}, "tile is .* needs 3 numbers"),
        ({"ndim": 4}, "ndim is 4"),
        ({"load": truth}, "pass a function, or load"),
        ({"intensity": "mean"}, "use one of percentiles, otsu, raw"),
        ({"parameters": {"at": object()}}, "parameters must be numbers"),
    ],
)
def test_a_segmenter_that_cannot_be_used_is_refused(about: dict[str, Any], said: str) -> None:
    usual: dict[str, Any] = {"name": "mine", "halo": (9, 9, 9)}
    with pytest.raises(UsageError, match=said):
        es.TileSegmenter(truth, **(usual | about))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tta": 16}, "tta: not supported by the external segmenter mine"),
        ({"tile": (64, 64, 64)}, "tile: not supported.* cluster_tile"),
        ({"strict": True}, "strict: not supported"),
        ({"keep_predictions": True}, "makes no predictions"),
        ({"threshold": 3.0}, "threshold: only for the classical method"),
    ],
)
def test_options_of_networks_are_refused(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        run(embryo(3), own(), tmp_path / "out.zarr", **options)


@pytest.mark.parametrize("change", [{"version": "2"}, {"parameters": {"shift": 1}}])
def test_another_version_or_parameter_is_another_run(change: dict[str, Any]) -> None:
    assert own(**change).fingerprint != own().fingerprint == own().fingerprint
    assert own(partial(truth, shift=1)).fingerprint != own(partial(truth, shift=2)).fingerprint
    assert own(jittering).fingerprint != own().fingerprint


def test_arrays_that_are_bound_to_a_function_count_by_their_content() -> None:
    ones, other = np.ones(10_000, np.float32), np.ones(10_000, np.float32)
    other[5000] = 2  # where repr shows nothing
    bound = [own(partial(truth, a)).fingerprint for a in (ones, ones.copy(), other)]
    assert bound[0] == bound[1] != bound[2]


class Stops:
    """Stops the run, as by Ctrl-C, when so many tasks of a stage are done."""

    def __init__(self, tasks: int) -> None:
        self.left = tasks

    def begin(self, stage: str, tiles: int) -> None:
        """Of no interest."""

    def advance(self, stage: str) -> None:  # noqa: ARG002
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("tasks", [5, 22])
def test_a_stopped_run_goes_on_to_the_same_labels(tmp_path: Path, tasks: int) -> None:
    ids = embryo(3)
    segmenter = own(partial(jittering, jitter=0.7))
    options: dict[str, Any] = {"max_halo": (12, 12, 12)}
    expected = run(ids, segmenter, tmp_path / "a.zarr", **options)
    with pytest.raises(KeyboardInterrupt):
        es.segment(ids, segmenter, output=tmp_path / "b.zarr", watcher=Stops(tasks), **options)
    resumed = es.segment(ids, segmenter, output=tmp_path / "b.zarr", **options)
    assert resumed.summary["resumed"]["cluster"] >= min(tasks - 1, 8)
    np.testing.assert_array_equal(np.asarray(resumed.labels), np.asarray(expected.labels))


def test_classical_runs_by_name(tmp_path: Path) -> None:
    ids = synthetic_embryo((40, 60, 60), density=0.4, diameter=14, spacing=1.0)
    image = render(ids)
    options: dict[str, Any] = {"object_diameter": 14, "overwrite": True}
    tiled = es.segment(
        image, "classical", output=tmp_path / "a.zarr", cluster_tile=(30, 30, 30), **options
    )
    whole = es.segment(image, "classical", output=tmp_path / "b.zarr", **options)
    np.testing.assert_array_equal(np.asarray(tiled.labels), np.asarray(whole.labels))
    (score,) = es.evaluate(tiled.path, ids, thresholds=(0.5,))
    assert score.ap > 0.7
    given = es.segment(image, "classical", output=tmp_path / "c.zarr", threshold=9e4, **options)
    assert given.n_instances == 0


def test_classical_needs_a_diameter(tmp_path: Path) -> None:
    with pytest.raises(EmbedSegError, match="--object-diameter 20, or 12um"):
        es.segment(embryo(3), "classical", output=tmp_path / "out.zarr")


def crowd(rng: np.random.Generator, shape: tuple[int, ...]) -> Labels:
    """Boxes and frayed boxes that touch, up to four times as long as a halo of 4."""
    ids = np.zeros(shape, np.uint16)
    for number in range(1, int(rng.integers(8, 40))):
        extent = [int(rng.integers(1, 17)) for _ in shape]
        start = [int(rng.integers(-n // 2, s)) for n, s in zip(extent, shape, strict=True)]
        box = tuple(slice(max(a, 0), a + n) for a, n in zip(start, extent, strict=True))
        part = ids[box]
        part[rng.random(part.shape) < rng.choice([0.6, 1.0])] = number
    return ids


@pytest.mark.parametrize("seed", [*range(4), *slowly(*range(4, 24))])
def test_an_object_has_one_label_and_all_its_voxels_however_large(
    tmp_path: Path, seed: int
) -> None:
    """Too large for any tile beside some that fit: one label for each, one object for each."""
    rng = np.random.default_rng(seed)
    ids = crowd(rng, (30, 44) if seed % 2 else (12, 20, 18))
    least = int(rng.choice([0, 5]))
    segmenter = own(ndim=ids.ndim, halo=(4,) * ids.ndim, min_object_size=least)
    options: dict[str, Any] = {"cluster_tile": (11, 9, 10)[-ids.ndim :]}
    result = run(ids, segmenter, tmp_path / "a.zarr", **options)
    sizes = np.bincount(ids.ravel())
    wanted = np.where(sizes[ids] > least, ids, 0)
    found = np.asarray(result.labels)
    assert same_objects(found, wanted)
    whole = np.asarray(run(ids, segmenter, tmp_path / "b.zarr", cluster_tile=ids.shape).labels)
    assert result.seams.joined or np.array_equal(found, whole)
