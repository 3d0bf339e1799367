"""A preview: a region gets the labels of the whole run, and only what it needs is done."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from typer.testing import CliRunner

import embedseg_large as es
from embedseg_large.cli.app import app
from embedseg_large.errors import UsageError
from embedseg_large.evaluation.evaluate import evaluate_images
from embedseg_large.geometry import Box
from embedseg_large.labels.published import provenance_of
from embedseg_large.segmentation.options import SegmentOptions
from embedseg_large.segmentation.request.estimate import estimate_of
from embedseg_large.segmentation.request.prepare import prepare
from embedseg_large.testing.objects import Flaws
from embedseg_large.testing.oracle import OracleNetwork
from embedseg_large.testing.synthetic import synthetic_embryo
from embedseg_large.testing.tiers import slowly
from embedseg_large.tiling.resampling import Resampling

SHAPES = {2: (190, 210), 3: (70, 76, 81)}
REGIONS = {2: Box((31, 40), (120, 121)), 3: Box((20, 23, 0), (57, 70, 43))}
"""Their faces cut prediction tiles of 24 and clustering tiles of 32 voxels."""


def embryo(ndim: int) -> NDArray[Any]:
    return synthetic_embryo(SHAPES[ndim], density=0.5, diameter=11, seed=ndim).astype(np.uint16)


def oracle(labels: NDArray[Any]) -> OracleNetwork:
    tile = (24,) * labels.ndim
    return OracleNetwork.of(labels, flaws=Flaws(noise=1.0), tile=tile, min_object_size=4)


def run(image: Any, network: Any, out: Path, **options: Any) -> es.SegmentResult:
    settings = {"intensity_range": (0, 1), "cluster_tile": (32,) * network.ndim}
    return es.segment(image, network, output=out, **settings | options)


def ranges(box: Box) -> list[tuple[int | None, int | None]]:
    return list(zip(box.start, box.stop, strict=True))


def same_up_to_numbers(found: NDArray[Any], wanted: NDArray[Any]) -> bool:
    pairs = np.unique(np.stack([found.ravel(), wanted.ravel()]), axis=1)
    return all(len(np.unique(side)) == pairs.shape[1] for side in pairs)


def interior(box: Box, network: OracleNetwork, shape: tuple[int, ...]) -> Box:
    """The voxels of a region that no face of it is nearer to than the halo."""
    far = zip(box.start, box.stop, network.halo, shape, strict=True)
    inner = [(a + h if a else 0, b - h if b < n else n) for a, b, h, n in far]
    return Box(*zip(*inner, strict=True))


@pytest.mark.parametrize("ndim", [3, *slowly(2)])
def test_a_region_has_the_labels_of_the_whole_run(tmp_path: Path, ndim: int, client: Any) -> None:
    labels, box = embryo(ndim), REGIONS[ndim]
    network = oracle(labels)
    whole = np.asarray(run(labels, network, tmp_path / "whole.zarr").labels)
    result = run(labels, network, tmp_path / "part.zarr", region=ranges(box))
    shared = run(labels, network, tmp_path / "shared.zarr", region=ranges(box), client=client)
    found = np.asarray(result.labels)
    np.testing.assert_array_equal(shared.labels, found)
    assert found.shape == labels.shape  # where viewers and `evaluate` expect them
    inner = interior(box, network, labels.shape)
    assert len(np.unique(found[inner.slices])) > 3
    assert same_up_to_numbers(found[inner.slices], whole[inner.slices])
    assert np.unique(found).tolist() == list(range(result.n_instances + 1))
    found[box.slices] = 0
    assert not found.any()


def test_tiles_are_predicted_that_are_needed_and_no_more(tmp_path: Path) -> None:
    labels, box = embryo(3), REGIONS[3]
    network = oracle(labels)
    request = prepare(
        labels,
        network,
        "nuclei",
        SegmentOptions(
            output=tmp_path / "out.zarr",
            region=ranges(box),
            cluster_tile=(32,) * 3,
            max_halo=network.halo,
        ),
    )
    seen = box.grow(network.halo).clip(labels.shape)
    needed = {
        index
        for index in np.ndindex(*(-(-n // 24) for n in labels.shape))
        if seen.intersect(Box.whole((24,) * 3).shift([24 * i for i in index])).size
    }
    quick: dict[str, Any] = {"region": ranges(box), "max_halo": network.halo}
    result = run(labels, network, tmp_path / "out.zarr", **quick)
    assert result.seams.rounds == 0
    assert result.seams.edge_unproven > 0
    assert any(text.startswith("region: ") for text in result.summary["warnings"])
    assert result.seams.tiles == 2 * 3 * 2
    assert result.seams.faces == 6 + 8 + 6
    assert result.summary["stages"]["predict"]["tiles"] == len(needed) < 3 * 4 * 4
    assert estimate_of(request).prediction_tiles == len(needed)
    assert estimate_of(request).cluster_tiles == 12


@pytest.mark.parametrize("seed", [0, *slowly(1, 2, 3)])
def test_where_the_edge_is_proven_all_labels_are_those_of_the_whole_run(
    tmp_path: Path, seed: int
) -> None:
    """Right up to the edge of the region, where no neighbour could disagree."""
    labels = synthetic_embryo((40, 60, 60), density=0.6, diameter=11, seed=seed).astype(np.uint16)
    network = OracleNetwork.of(labels, flaws=Flaws(noise=1.0), tile=(40, 64, 64))
    start = np.random.default_rng(seed).integers(0, [20, 30, 30])
    box = Box(
        tuple(start.tolist()), tuple(int(a) + n for a, n in zip(start, (15, 25, 25), strict=True))
    )
    third = tuple(max(2, h // 3) for h in network.halo)
    options: dict[str, Any] = {"cluster_tile": (20, 24, 24), "halo": third}
    whole = run(labels, network, tmp_path / "w.zarr", **options)
    far = tuple(12 * n for n in third)
    part = run(labels, network, tmp_path / "p.zarr", region=ranges(box), max_halo=far, **options)
    assert (part.seams.edge_unproven, part.seams.joined, whole.seams.joined) == (0, 0, 0)
    assert not part.summary["warnings"]
    found, wanted = (np.asarray(result.labels)[box.slices] for result in (part, whole))
    assert same_up_to_numbers(found, wanted)


def test_tiles_that_disagree_have_predicted_what_they_see_then(tmp_path: Path) -> None:
    labels = embryo(3)
    network = oracle(labels)
    box = Box((24, 24, 24), (48, 48, 48))
    options: dict[str, Any] = {"cluster_tile": (20,) * 3, "halo": (2,) * 3, "max_halo": (40,) * 3}
    whole = run(labels, network, tmp_path / "whole.zarr")
    part = run(labels, network, tmp_path / "part.zarr", region=ranges(box), **options)
    assert part.seams.rounds > 1
    assert part.summary["stages"]["predict"]["tiles"] > 8  # of its own and those around
    inner = box.grow((-8,) * 3)
    found, wanted = (np.asarray(r.labels)[inner.slices] for r in (part, whole))
    assert same_up_to_numbers(found, wanted)


def test_an_object_that_the_region_cuts_touches_its_border(tmp_path: Path) -> None:
    labels = embryo(2)
    box = Box((20, 20), (100, 90))
    result = run(labels, oracle(labels), tmp_path / "part.zarr", region=ranges(box))
    table = es.measure(result.path)
    start, stop = (np.stack([table[f"{a}_{end}"] for a in "yx"], -1) for end in ("start", "stop"))
    cut = ((start == box.start) | (stop == box.stop)).any(axis=1)
    assert 0 < cut.sum() < len(table)
    assert np.array_equal(table["touches_border"], cut)


@pytest.mark.slow
def test_a_region_of_a_resampled_volume(tmp_path: Path) -> None:
    labels = embryo(3)
    shape = (140, 152, 162)
    grid = Resampling(shape, labels.shape)
    image = grid.labels(labels, Box.whole(shape)).astype(np.uint16)
    network = KnowsItsGrid.like(oracle(labels), known=labels)
    diameter = network.object_diameter * 2
    box = Box((41, 47, 1), (113, 140, 86))
    found, wanted = (
        np.asarray(
            run(image, network, tmp_path / name, object_diameter=diameter, region=part).labels
        )
        for name, part in (("a.zarr", ranges(box)), ("b.zarr", None))
    )
    inner = box.grow([-2 * h for h in network.halo])
    assert same_up_to_numbers(found[inner.slices], wanted[inner.slices])
    found[box.slices] = 0
    assert not found.any()


@pytest.mark.parametrize("columns", [(0, 40), (0, 39), (52, 96)])
def test_only_instances_in_a_region_of_a_resampled_volume_are_counted(
    tmp_path: Path, columns: tuple[int, int]
) -> None:
    known = np.zeros((24, 24, 48), np.uint16)
    for number, first in enumerate((6, 20, 34), 1):  # the second one begins at column 40 or 41
        known[8:14, 8:14, first : first + 6] = number
    network = KnowsItsGrid.like(OracleNetwork.of(known, tile=(24,) * 3), known=known)
    image = np.kron(known > 0, np.ones((2, 2, 2))).astype(np.uint8) * 200
    box = Box((0, 0, columns[0]), (48, 48, columns[1]))
    result = run(
        image,
        network,
        tmp_path / "a.zarr",
        object_diameter=2 * network.object_diameter,
        region=ranges(box),
    )
    assert result.n_instances == 1
    assert np.unique(np.asarray(result.labels)).tolist() == [0, 1]


@dataclass(frozen=True, kw_only=True, eq=False)
class KnowsItsGrid(OracleNetwork):
    """Answers by place alone: what it knows are the labels on the model's grid."""

    known: NDArray[Any]

    def predict_tile(
        self,
        image: NDArray[np.float32],  # noqa: ARG002
        region: Box,
        tta: bool | int | str = "none",  # noqa: ARG002
    ) -> NDArray[np.float16]:
        return self.objects.predict(
            np.pad(self.known, 8, mode="edge")[region.shift((8,) * 3).slices].astype(np.int64),
            region,
            self.flaws,
        )


def test_a_region_of_chosen_timepoints_inside_a_mask(tmp_path: Path) -> None:
    labels, box = embryo(2), REGIONS[2]
    series = np.stack([labels, labels, labels])
    mask = np.ones(labels.shape, np.uint8)
    mask[:, 100:] = 0
    result = run(
        series,
        oracle(labels),
        tmp_path / "out.zarr",
        axes="tyx",
        timepoint=(0, 2),
        region=(slice(31, 120), slice(40, 121)),
        mask=mask,
    )
    found = np.asarray(result.labels)
    assert not found[1].any()
    np.testing.assert_array_equal(found[0], found[2])
    inner = interior(box, oracle(labels), labels.shape).clip((190, 80)).slices
    assert same_up_to_numbers(found[0][inner], labels[inner])
    assert not found[:, :, 100:].any()


def test_kept_predictions_of_the_whole_serve_a_region(tmp_path: Path) -> None:
    labels, box = embryo(2), REGIONS[2]
    network = oracle(labels)
    whole = run(labels, network, tmp_path / "whole.zarr", keep_predictions=True)
    kept = whole.summary["predictions"]
    region = ranges(box)
    result = run(
        labels,
        network,
        tmp_path / "part.zarr",
        from_predictions=kept,
        region=region,
        foreground=0.6,
    )
    assert "predict" not in result.summary["stages"]
    assert result.n_instances > 3
    with pytest.raises(UsageError, match="predictions of a region are not kept"):
        run(labels, network, tmp_path / "c.zarr", keep_predictions=True, region=region)


def test_kept_predictions_bring_their_intensities_and_the_image_is_not_read_for_them(
    tmp_path: Path,
) -> None:
    image = (synthetic_embryo((64, 64), density=0.5, diameter=14) > 0).astype(np.uint16)
    whole = es.segment(image, tta=False, output=tmp_path / "whole.zarr", keep_predictions=True)
    assert "statistics" in whole.summary["stages"]
    kept = whole.summary["predictions"]
    again = es.segment(image, tta=False, output=tmp_path / "b.zarr", from_predictions=kept)
    assert "statistics" not in again.summary["stages"]
    np.testing.assert_array_equal(again.labels, whole.labels)


def test_a_region_in_a_volume_of_a_million_tiles_costs_what_it_costs(tmp_path: Path) -> None:
    labels = np.zeros((20, 20, 20), np.uint16)
    labels[4:15, 4:15, 4:15] = 1
    store = zarr.create_array(
        tmp_path / "huge.zarr", shape=(3200, 3200, 3200), chunks=(32,) * 3, dtype="u2"
    )
    store[:20, :20, :20] = labels
    result = run(
        tmp_path / "huge.zarr",
        OracleNetwork.of(labels, tile=(32,) * 3),
        tmp_path / "out.zarr",
        axes="zyx",
        region=[(0, 25), (0, 25), (0, 25)],
    )
    assert result.n_instances == 1
    assert result.seams.tiles == 1
    np.testing.assert_array_equal(np.asarray(result.labels[:20, :20, :20]), labels)
    written = [p for p in (tmp_path / "out.zarr/labels/nuclei/0/c").rglob("*") if p.is_file()]
    assert len(written) == 1


def test_a_stopped_preview_goes_on_and_another_region_is_another_run(tmp_path: Path) -> None:
    labels, out = embryo(2), tmp_path / "out.zarr"
    network = Stops.like(oracle(labels), calls=[])
    with pytest.raises(es.EmbedSegError):
        run(labels, network, out, region=ranges(REGIONS[2]))
    with pytest.raises(UsageError, match="region stop"):
        run(labels, oracle(labels), out, region=[(31, 120), (40, 122)])
    result = run(labels, oracle(labels), out, region=ranges(REGIONS[2]))
    assert result.summary["resumed"]["predict"] > 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Stops(OracleNetwork):
    """Fails from its sixth tile on."""

    calls: list[Box]

    def predict_tile(
        self, image: NDArray[np.float32], region: Box, tta: bool | int | str = "none"
    ) -> NDArray[np.float16]:
        self.calls.append(region)
        if len(self.calls) > 6:
            raise UsageError("enough")
        return super().predict_tile(image, region, tta)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ([(0, 10)], "1 ranges, the volume 2 axes"),
        ([(0, 10), (0, 211)], "choose voxels of 0:190,0:210"),
        ([(0, 10), (5, 5)], "at least one"),
        ([(-1, 10), (0, 5)], "choose voxels of"),
        ([(0, 10), slice(0, 10, 2)], "pass two integers"),
        ([(0, 10), (0.5, 3)], "pass two integers"),
    ],
)
def test_a_region_that_is_none_is_refused(tmp_path: Path, region: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(embryo(2), oracle(embryo(2)), tmp_path / "out.zarr", region=region)


def test_all_of_the_volume_is_no_region(tmp_path: Path) -> None:
    labels = embryo(2)
    result = run(labels, oracle(labels), tmp_path / "out.zarr", region=[(None, None), (0, None)])
    assert "region" not in result.summary


def test_the_command_takes_and_records_a_region(tmp_path: Path) -> None:
    image = np.zeros((16, 64, 64), np.uint8)
    image[4:12, 20:40, 20:40] = 200
    np_image = zarr.create_array(tmp_path / "image.zarr", shape=image.shape, dtype="u1")
    np_image[...] = image
    command = ["segment", str(tmp_path / "image.zarr"), "--axes", "zyx", "--tta", "none"]
    command += ["--output", str(tmp_path / "out.zarr"), "--json", "--intensity-range", "0,200"]
    done = CliRunner().invoke(app, [*command, "--region", ":,10:50,:48"])
    assert done.exit_code == 0, done.output
    region = {"start": [0, 10, 0], "stop": [16, 50, 48]}
    assert json.loads(done.stdout)["region"] == region
    assert provenance_of(str(tmp_path / "out.zarr/labels/nuclei"))["region"] == region
    for wrong in ("0:8", "1:2,3:4,80:90", "a:b", "5:5,:,:"):
        failed = CliRunner().invoke(app, [*command, "--overwrite", "--region", wrong])
        assert failed.exit_code == 2, wrong


@pytest.mark.parametrize("localisation", ["iou", "boundary"])
def test_a_preview_is_scored_where_it_has_labels(
    tmp_path: Path, localisation: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What nobody segmented is not missing, and a face of the region is no outline."""
    labels, box = embryo(2), REGIONS[2]
    store = tmp_path / "part.zarr"
    run(labels, oracle(labels), store, region=ranges(box))
    place = store / "labels" / "nuclei"
    options: dict[str, Any] = {"localisation": localisation, "count_errors": True}
    with caplog.at_level(logging.WARNING):
        found = evaluate_images([place], [labels], **options)
    assert "labels of [31:120, 40:121] only" in caplog.text
    assert found.images[0].region == box
    cut = np.asarray(zarr.open_array(str(place / "0"), mode="r"))[box.slices]
    alone = evaluate_images([cut], [labels[box.slices]], **options)
    assert (found.scores, found.errors) == (alone.scores, alone.errors)
    assert found.scores[0].tp > 0
    swapped = evaluate_images([labels], [place], **options)
    assert swapped.images[0].region == box


def test_previews_that_have_nothing_in_common_are_not_scored(tmp_path: Path) -> None:
    labels = embryo(2)
    sides = [Box((0, 0), (50, 50)), Box((50, 0), (90, 50))]
    for number, box in enumerate(sides):
        run(labels, oracle(labels), tmp_path / f"{number}.zarr", region=ranges(box))
    places = [tmp_path / f"{number}.zarr" / "labels" / "nuclei" for number in range(2)]
    with pytest.raises(UsageError, match=r"regions \[0:50, 0:50\] and \[50:90, 0:50\]"):
        es.evaluate(places[0], places[1])
    inner = replace(es.open_volume(places[0]), level=1)
    with pytest.raises(UsageError, match="level 0"):
        es.evaluate(inner, np.zeros(inner.shape, np.uint8))
