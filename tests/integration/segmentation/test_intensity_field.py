"""Uneven light is evened out: nothing dim is lost, and tiles leave no trace."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from scipy.ndimage import center_of_mass, gaussian_filter, median
from typer.testing import CliRunner

import embedseg_large as es
from embedseg_large.cli.app import app
from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.labels.published import provenance_of
from embedseg_large.segmentation.intensity_field import (
    MOST_GAIN,
    IntensityField,
    blocks_of,
    intensity_fields,
)
from embedseg_large.segmentation.options import SegmentOptions
from embedseg_large.segmentation.request.prepare import prepare
from embedseg_large.segmentation.stages.job import Job
from embedseg_large.segmentation.stages.predict import read_padded
from embedseg_large.testing.oracle import OracleNetwork
from embedseg_large.testing.synthetic import render, synthetic_embryo
from embedseg_large.volumes.intensity import IntensityRange

SHAPE = (48, 64, 96)
OFFSET = 100.0
"""Of the camera: it is there whatever the light."""


@pytest.fixture(scope="module")
def truth() -> NDArray[Any]:
    return synthetic_embryo(SHAPE, n_objects=17, diameter=15, spacing=1.15, seed=3)


@pytest.fixture(scope="module")
def even(truth: NDArray[Any]) -> NDArray[Any]:
    """Nuclei, and debris that is some times as bright, as in most embryos."""
    rng = np.random.default_rng(3)
    debris = np.zeros(SHAPE)
    places = np.argwhere(truth == 0)
    debris[tuple(rng.choice(places, 30, replace=False).T)] = 1
    debris = gaussian_filter(debris, 1.0)
    image: NDArray[Any] = (render(truth, seed=3) + 4000 * debris / debris.max()).astype(np.uint16)
    return image


def dimmed(image: NDArray[Any], axis: int = 0) -> NDArray[Any]:
    """The same with a quarter of the light in the far half of an axis."""
    light = np.where(np.arange(image.shape[axis]) < image.shape[axis] // 2, 1.0, 0.25)
    shape = [-1 if d == axis else 1 for d in range(image.ndim)]
    dim = OFFSET + (image.astype(float) - OFFSET) * light.reshape(shape)
    return dim.clip(0).round().astype(np.uint16)


def segment(image: NDArray[Any], out: Path, **options: Any) -> es.SegmentResult:
    return es.segment(image, "nuclei-3d", output=out, **{"tta": "none"} | options)


def found(labels: Any, truth: NDArray[Any], threshold: float = 0.5) -> es.Score:
    [score] = es.evaluate(np.asarray(labels), truth, (threshold,))
    return score


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory, even: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(segment(even, tmp_path_factory.mktemp("even") / "out.zarr").labels)


@pytest.mark.parametrize(("mode", "axis"), [("depth", 0), ("smooth", 2)])
def test_no_nucleus_is_lost_where_light_is_a_quarter(
    tmp_path: Path,
    truth: NDArray[Any],
    even: NDArray[Any],
    usual: NDArray[Any],
    mode: str,
    axis: int,
) -> None:
    wanted, dim = found(usual, truth), dimmed(even, axis)
    plain = found(segment(dim, tmp_path / "plain.zarr").labels, truth)
    evened = found(segment(dim, tmp_path / "even.zarr", intensity_field=mode).labels, truth)
    assert evened.tp >= wanted.tp
    assert plain.mean_matched_iou < wanted.mean_matched_iou - 0.03  # outlines shrink in the dark
    assert evened.mean_matched_iou > wanted.mean_matched_iou - 0.02


@pytest.mark.parametrize("mode", ["depth", "smooth"])
def test_even_light_is_left_alone(
    tmp_path: Path, even: NDArray[Any], usual: NDArray[Any], mode: str
) -> None:
    field = segment(even, tmp_path / "field.zarr", intensity_field=mode).labels
    assert found(field, usual.astype(np.uint32), 0.9).ap >= 0.95


def test_nuclei_become_as_bright_as_each_other(truth: NDArray[Any], even: NDArray[Any]) -> None:
    dim = dimmed(even)
    [field] = fields(dim, "depth")
    evened = field.apply(dim, Box.whole(SHAPE)) - field.reference
    depths = np.array(center_of_mass(truth > 0, truth, np.unique(truth)[1:]))[:, 0]
    light = [np.array(median(i, truth, np.unique(truth)[1:])) for i in (dim - OFFSET, evened)]
    near, far = depths < 24 - 5, depths > 24 + 5  # at the very edge a smooth gain errs
    before, after = (np.median(one[near]) / np.median(one[far]) for one in light)
    assert before > 3
    assert after < 1.5


def fields(image: NDArray[Any], mode: str, diameter: float = 15) -> tuple[IntensityField, ...]:
    volume = es.open_volume(image, axes="zyx"[-image.ndim :])
    return intensity_fields(volume, mode, (diameter,) * image.ndim)


def test_noise_does_not_become_nuclei(even: NDArray[Any]) -> None:
    rng = np.random.default_rng(0)
    half = even.copy()
    half[:, :, 32:] = rng.normal(OFFSET, 10, half[:, :, 32:].shape).astype(np.uint16)
    [field] = fields(half, "smooth")
    assert field.gain[:, :, -1].max() < 1.3
    noise = rng.normal(OFFSET, 10, SHAPE).astype(np.uint16)
    assert np.all(fields(noise, "smooth")[0].gain == 1)


def test_the_gain_is_bounded_and_nothing_else_changes_an_image_without_signal() -> None:
    flat = np.full((40, 64, 64), 7, np.uint8)
    [field] = fields(flat, "depth")
    np.testing.assert_array_equal(field.apply(flat, Box.whole(flat.shape)), flat)
    steep = render(synthetic_embryo((48, 64, 64), density=0.4, diameter=12, seed=1)).astype(float)
    steep *= np.geomspace(1, 1e-3, 48).reshape(-1, 1, 1)
    [field] = fields(steep, "depth", 12)
    assert 1 / MOST_GAIN <= field.gain.min() <= field.gain.max() <= MOST_GAIN


def test_blocks_are_wider_than_objects() -> None:
    assert blocks_of((400, 2000, 2000), "depth", (10, 20, 20)) == (32, 1, 1)
    assert blocks_of((400, 2000, 2000), "smooth", (10, 20, 20)) == (8, 8, 8)
    assert blocks_of((40, 100, 100), "smooth", (10, 20, 20)) == (2, 2, 2)
    assert blocks_of((3, 10, 10), "depth", (10, 20, 20)) == (1, 1, 1)


def job_of(image: NDArray[Any], tmp_path: Path, **options: Any) -> Job:
    request = prepare(
        image, "nuclei-3d", "n", SegmentOptions(output=tmp_path / "o.zarr", **options)
    )
    return Job(
        volume=request.volume,
        timepoint=None,
        intensity=(IntensityRange(90.0, 900.0),),
        fields=fields(image, "smooth"),
        resampling=request.resampling,
        settings=request.settings,
        scratch=request.scratch,
    )


def seen_by(job: Job, region: Box) -> NDArray[np.float32]:
    seen = read_padded(job, region)
    assert seen is not None
    return seen.image


@pytest.mark.parametrize("diameter", [None, 22.0, 11.0])
def test_a_tile_sees_the_bits_that_the_whole_volume_has(
    tmp_path: Path, even: NDArray[Any], diameter: float | None
) -> None:
    job = job_of(dimmed(even), tmp_path, object_diameter=diameter, tile=(16, 24, 24))
    whole = seen_by(job, Box.whole(job.shape))
    plain = seen_by(replace(job, fields=()), Box.whole(job.shape))
    assert not np.array_equal(whole, plain)
    for index in np.ndindex(*job.prediction.counts):
        seen = job.prediction.tile(index).region.clip(job.shape)
        np.testing.assert_array_equal(seen_by(job, seen), whole[(slice(None), *seen.slices)])


@dataclass(frozen=True, kw_only=True, eq=False)
class KnowsThePlace(OracleNetwork):
    """Answers by place alone, whatever the image looks like there."""

    known: NDArray[Any]

    def predict_tile(
        self,
        image: NDArray[np.float32],  # noqa: ARG002
        region: Box,
        tta: bool | int | str = "none",  # noqa: ARG002
    ) -> NDArray[np.float16]:
        """Predict what is known of a region."""
        ids = self.known[region.slices].astype(np.int64)
        return self.objects.predict(ids, region, self.flaws)


def test_a_field_is_a_fact_of_the_run_and_its_predictions(tmp_path: Path) -> None:
    labels = synthetic_embryo((40, 48, 48), density=0.4, diameter=11, seed=2).astype(np.uint16)
    oracle = OracleNetwork.of(labels, tile=(24, 24, 24), min_object_size=4)
    network = KnowsThePlace(objects=oracle.objects, tile=oracle.tile, known=labels)
    image, base = render(labels), dict[str, Any](labels="n", keep_predictions=True)
    out = {name: tmp_path / f"{name}.zarr" for name in ("a", "b", "c")}
    one = es.segment(image, network, output=out["a"], intensity_field="depth", **base)
    two = es.segment(image, network, output=out["b"], workers=1, intensity_field="depth", **base)
    np.testing.assert_array_equal(one.labels, two.labels)
    assert one.summary["token"] == two.summary["token"]
    made = provenance_of(one.path)["intensity_field"]
    assert made["mode"] == "depth"
    [stored] = (IntensityField.from_dict(values) for values in made["channels"])
    width = network.object_diameter or 20.0
    [again] = intensity_fields(es.open_volume(image), "depth", (width,) * 3)
    np.testing.assert_array_equal(stored.gain, again.gain)
    kept = dict[str, Any](from_predictions=one.summary["predictions"], output=out["c"])
    with pytest.raises(UsageError, match="intensity field"):
        es.segment(image, network, **kept)
    same = es.segment(image, network, intensity_field="depth", **kept)
    assert same.summary["intensity_field"] == one.summary["intensity_field"]


def test_a_stored_field_is_read_back_bit_for_bit(even: NDArray[Any]) -> None:
    [field] = fields(dimmed(even), "smooth")
    back = IntensityField.from_dict(json.loads(json.dumps(field.as_dict())))
    whole = Box.whole(SHAPE)
    np.testing.assert_array_equal(back.apply(even, whole), field.apply(even, whole))


@pytest.mark.parametrize(
    ("shape", "field", "text"),
    [
        ((40, 40), "depth", "has no z axis; use smooth"),
        ((20, 40, 40), "deep", "use one of none, depth, smooth"),
    ],
)
def test_fields_that_there_are_not_are_refused(
    tmp_path: Path, shape: tuple[int, ...], field: str, text: str
) -> None:
    image = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    with pytest.raises(UsageError, match=text):
        es.segment(image, output=tmp_path / "o.zarr", intensity_field=field)
    assert not (tmp_path / "o.zarr").exists()


def test_the_command_line_says_what_evens_out_the_light(tmp_path: Path) -> None:
    labels = synthetic_embryo((96, 96), density=0.3, diameter=20, seed=4)
    tifffile.imwrite(tmp_path / "i.tif", render(labels))
    command = ["segment", str(tmp_path / "i.tif"), "--axes", "yx", "--output"]
    command += [str(tmp_path / "o.zarr"), "--intensity-field", "smooth", "--tta", "none"]
    planned = CliRunner().invoke(app, [*command, "--dry-run"])
    assert "evened out: smooth" in planned.stdout
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "evened out: smooth, gains " in done.stdout


@pytest.mark.parametrize(("depth", "slabs"), [(None, 16), (6.0, 16), (12.0, 8)])
def test_slabs_are_half_as_thick_as_objects_are_deep(
    depth: float | None, slabs: int, even: NDArray[Any], tmp_path: Path
) -> None:
    """Along z objects are 6 planes deep if nothing says otherwise: 12 µm, like along x."""

    def nothing(image: NDArray[np.float32]) -> NDArray[np.int32]:
        return (image > 1).astype(np.int32)

    about: dict[str, Any] = {"ndim": 3, "halo": (8, 8, 8), "version": "1"}
    segmenter = es.TileSegmenter(nothing, name="n", object_diameter=12, object_depth=depth, **about)
    result = es.segment(
        even, segmenter, output=tmp_path / "o.zarr", voxel_size=(2, 1, 1), intensity_field="depth"
    )
    [channel] = result.summary["intensity_field"]["channels"]
    assert len(channel["gain"]) == slabs
