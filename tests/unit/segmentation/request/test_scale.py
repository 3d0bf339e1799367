"""Objects of another size than the model's are noticed, and the user is told what to do."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import embedseg_large as es
from embedseg_large.cli import system
from embedseg_large.cli.app import app
from embedseg_large.conversion.plan import write_image
from embedseg_large.errors import UsageError
from embedseg_large.network.model import Model
from embedseg_large.segmentation.options import SegmentOptions
from embedseg_large.segmentation.request import suggest as suggesting
from embedseg_large.segmentation.request.prepare import prepare
from embedseg_large.segmentation.request.scale import nearest_level, voxel_size_warning
from embedseg_large.segmentation.request.scale_choice import ScaleChoice, ScaleTrial
from embedseg_large.segmentation.request.suggest import suggest_diameter
from embedseg_large.segmentation.stages.finish import extents
from embedseg_large.testing.oracle import OracleNetwork
from embedseg_large.testing.synthetic import synthetic_embryo
from embedseg_large.tiling.resampling import Resampling


@dataclass(frozen=True, kw_only=True, eq=False)
class KnowsSizes(OracleNetwork):
    """An oracle that says how large its training objects and voxels were."""

    diameter: float | None = None
    voxels: tuple[float, ...] | None = None

    @property
    def object_diameter(self) -> float | None:  # type: ignore[override]
        return self.diameter

    @property
    def voxel_size(self) -> tuple[float, ...] | None:
        return self.voxels


@pytest.fixture(scope="module")
def labels() -> NDArray[Any]:
    return synthetic_embryo((128, 128), density=0.4, diameter=12, seed=2).astype(np.uint16)


def network_of(labels: NDArray[Any], **known: Any) -> KnowsSizes:
    return KnowsSizes.like(OracleNetwork.of(labels, min_object_size=4), **known)


def pyramid(write_image: Any, labels: NDArray[Any], voxel: float = 0.5) -> Path:
    levels = [labels[:: 2**k, :: 2**k] for k in range(3)]
    multiscale = {
        "axes": [{"name": n, "type": "space", "unit": "micrometer"} for n in "yx"],
        "datasets": [
            {
                "path": str(k),
                "coordinateTransformations": [{"type": "scale", "scale": [voxel * 2**k] * 2}],
            }
            for k in range(3)
        ],
    }
    path: Path = write_image(levels, multiscale, "0.5", fill_value=0)
    return path


def segment(image: Any, network: Any, out: Path, **options: Any) -> es.SegmentResult:
    return es.segment(image, network, output=out, intensity_range=(0, 1), **options)


def test_objects_like_those_of_the_training_are_no_reason_to_warn(
    tmp_path: Path, labels: NDArray[Any]
) -> None:
    result = segment(labels, network_of(labels, diameter=12.0), tmp_path / "out.zarr")
    scale = result.summary["scale"]
    assert scale["found_diameter"] == pytest.approx(12, rel=0.15)
    assert result.summary["warnings"] == []


@pytest.mark.parametrize("known", [5.0, 30.0])
def test_objects_of_another_size_are_said(
    tmp_path: Path, labels: NDArray[Any], known: float, caplog: pytest.LogCaptureFixture
) -> None:
    result = segment(labels, network_of(labels, diameter=known), tmp_path / "out.zarr")
    [warning] = result.summary["warnings"]
    assert "--object-diameter auto" in warning
    assert warning in caplog.messages


def test_a_few_objects_say_nothing_about_all(tmp_path: Path, labels: NDArray[Any]) -> None:
    few = np.where(labels < 4, labels, 0)
    result = segment(few, network_of(few, diameter=40.0), tmp_path / "out.zarr")
    assert result.summary["scale"]["found_diameter"] is None
    assert result.summary["warnings"] == []


def test_cut_objects_are_not_measured() -> None:
    labels = np.zeros((20, 20), np.uint32)
    labels[0:5, 4:9] = 1
    labels[8:12, 6:12] = 2
    assert list(extents(labels, low=[0, 0], high=[20, 20])) == [5.0]
    assert list(extents(labels, low=[-1, -1], high=[21, 21])) == [5.0, 5.0]


@pytest.mark.parametrize(("voxel", "level"), [(0.45, 0), (0.8, 1), (1.3, 1), (9.0, 2)])
def test_the_level_nearest_to_the_models_voxels_is_taken(
    tmp_path: Path, write_image: Any, labels: NDArray[Any], voxel: float, level: int
) -> None:
    image = pyramid(write_image, labels)
    network = network_of(labels, voxels=(voxel, voxel))
    request = prepare(image, network, "nuclei", SegmentOptions(output=tmp_path / "out.zarr"))
    assert request.volume.level == level
    assert request.level_is_automatic == (level > 0)


def test_what_the_user_says_comes_before_voxel_sizes(
    tmp_path: Path, write_image: Any, labels: NDArray[Any]
) -> None:
    image, out = pyramid(write_image, labels), tmp_path / "out.zarr"
    network = network_of(labels, voxels=(2.0, 2.0), diameter=12.0)
    assert prepare(image, network, "a", SegmentOptions(output=out, level=1)).volume.level == 1
    assert (
        prepare(image, network, "a", SegmentOptions(output=out, object_diameter=12)).volume.level
        == 0
    )
    opened = es.open_volume(image)
    assert prepare(opened, network, "a", SegmentOptions(output=out)).volume.level == 0
    unknowing = network_of(labels)
    assert prepare(image, unknowing, "a", SegmentOptions(output=out)).volume.level == 0


def test_an_automatic_level_is_said_and_gets_the_labels(
    tmp_path: Path, write_image: Any, labels: NDArray[Any]
) -> None:
    coarse = labels[::2, ::2]
    image = pyramid(write_image, labels)
    network = network_of(coarse, voxels=(1.0, 1.0), diameter=6.0)
    result = segment(image, network, tmp_path / "out.zarr")
    assert result.summary["scale"]["automatic_level"]
    assert result.labels.shape == coarse.shape
    assert es.open_volume(result.path).voxel_size == (1.0, 1.0)


def test_voxels_unlike_the_models_are_said_before_the_run(
    write_image: Any, labels: NDArray[Any]
) -> None:
    volume = es.open_volume(pyramid(write_image, labels))
    same = Resampling(labels.shape, labels.shape)
    network = network_of(labels, voxels=(2.0, 2.0))
    warning = voxel_size_warning(volume, network, same)
    assert warning is not None
    assert "4.0 times larger" in warning
    assert "--object-diameter auto" in warning
    assert voxel_size_warning(volume, network_of(labels, voxels=(0.6, 0.6)), same) is None
    assert voxel_size_warning(volume, network, Resampling(labels.shape, (32, 32))) is None
    assert nearest_level(volume, network) == 2


def test_a_region_to_suggest_from_lies_in_the_image() -> None:
    with pytest.raises(UsageError, match="choose voxels of 0:64,0:64"):
        suggest_diameter(np.full((64, 64), 7, np.uint8), region=[(0, 65), (0, 64)])


def test_suggest_shows_the_scales_and_the_command_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tifffile

    trials = [trial(12.0, views=0.9, neighbours=0.5), trial(None, views=0.5, neighbours=0.9)]
    trials += [trial(48.0, views=0.9, neighbours=0.9)]
    chosen = ScaleChoice(diameter=48.0, model_diameter=24.0, trials=tuple(trials), places=())
    monkeypatch.setattr(suggesting, "choose_scale", lambda *_, **__: chosen)
    tifffile.imwrite(tmp_path / "my image.tif", np.zeros((64, 64), np.uint8))
    command = ["suggest", str(tmp_path / "my image.tif"), "--axes", "yx"]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["object_diameter"] == 48
    assert told["command"].endswith("my image.tif' --axes yx --object-diameter 48")
    shown = CliRunner().invoke(app, command).stdout
    assert "as if objects were 48 voxels wide" in shown
    assert shown.count("chosen") == 1
    failed = CliRunner().invoke(app, [*command, "--region", "0:10"])
    assert failed.exit_code == 2


def test_suggest_states_the_depth_in_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tifffile

    trials = (
        trial(None, views=0.5, neighbours=0.9),
        trial(None, depth=7.0, views=0.9, neighbours=1),
    )
    chosen = ScaleChoice(diameter=None, depth=7, model_diameter=15.25, trials=trials, places=())
    monkeypatch.setattr(suggesting, "choose_scale", lambda *_, **__: chosen)
    tifffile.imwrite(tmp_path / "volume.tif", np.zeros((8, 64, 64), np.uint8))
    done = CliRunner().invoke(app, ["suggest", str(tmp_path / "volume.tif"), "--axes", "zyx"])
    assert done.exit_code == 0, done.output
    assert "as if objects were 15.2 voxels wide and 7 deep" in done.stdout
    assert "--object-diameter 7,15.25" in done.stdout


def test_suggest_looks_at_the_series_that_is_named_and_repeats_what_it_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tifffile

    seen = []
    chosen = ScaleChoice(diameter=None, model_diameter=24.0, trials=(), places=())

    def choose(image: Any, *_: Any, **__: Any) -> ScaleChoice:
        seen.append(image.shape)
        return chosen

    monkeypatch.setattr(suggesting, "choose_scale", choose)
    with tifffile.TiffWriter(tmp_path / "two.tif") as file:
        file.write(np.zeros((64, 64), np.uint8))
        file.write(np.zeros((32, 48), np.uint8))
    command = ["suggest", str(tmp_path / "two.tif"), "--series", "1", "--axes", "yx"]
    told = CliRunner().invoke(app, [*command, "--voxel-size", "0.1624998,0.5", "--json"])
    assert told.exit_code == 0, told.output
    assert seen == [(32, 48)]
    again = json.loads(told.stdout)["command"]
    assert again.endswith("two.tif --axes yx --voxel-size 0.1624998,0.5 --series 1")


def test_suggest_states_the_level_where_segment_would_choose_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = ScaleChoice(diameter=None, model_diameter=24.0, trials=(), places=())
    monkeypatch.setattr(suggesting, "choose_scale", lambda *_, **__: chosen)
    model = es.load_model("nuclei-2d")
    known = replace(model.settings, voxel_size=(0.5, 0.5))
    Model(model.weights, known, card=model.card).save(tmp_path / "known.safetensors")
    write_image(tmp_path / "image.zarr", np.ones((2500, 1200), np.uint8), voxel_size=(0.25, 0.25))
    command = ["suggest", str(tmp_path / "image.zarr"), "--json", "--model"]
    told = CliRunner().invoke(app, [*command, str(tmp_path / "known.safetensors")])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["command"].endswith("--level 0")
    told = CliRunner().invoke(app, [*command, "nuclei-2d"])
    assert "--level" not in json.loads(told.stdout)["command"]


def trial(diameter: float | None, **found: float) -> ScaleTrial:
    return ScaleTrial(diameter=diameter, objects=9, found=20.0, **found)


def test_info_describes_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["numpy>=2", 'no-such-thing>=1; extra == "dreams"', "numpy; extra == 'there'"]
    monkeypatch.setattr(system, "requires", lambda _: wanted)
    monkeypatch.setattr(system, "metadata", lambda _: _Extras())
    done = CliRunner().invoke(app, ["info", "--system", "--json"])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["packages"].keys() >= {"numpy", "numba", "zarr", "dask"}
    assert facts["extras"] == {"dreams": False, "there": True}
    assert facts["cores"] >= 1
    assert 0 < facts["free_memory"] <= facts["memory"]
    shown = CliRunner().invoke(app, ["info", "--system"]).stdout
    assert 'pip install "embedseg-large[dreams]"' in shown


class _Extras:
    def get_all(self, _: str) -> list[str]:
        return ["dreams", "there", "dev"]


@pytest.mark.parametrize("arguments", [[], ["nuclei-3d", "--system"]])
def test_info_needs_one_thing_to_describe(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, ["info", *arguments]).exit_code == 2
