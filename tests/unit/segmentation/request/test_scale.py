"""Objects of another size than the model's are noticed, and the user is told what to do."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import embedseg_large as es
from embedseg_large.cli import system
from embedseg_large.cli.app import app
from embedseg_large.errors import UsageError, VolumeError
from embedseg_large.segmentation.request.blobs import blob_diameter
from embedseg_large.segmentation.request.request import prepare
from embedseg_large.segmentation.request.scale import extents, nearest_level, voxel_size_warning
from embedseg_large.segmentation.request.suggest import suggest_diameter
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
    assert "--object-diameter 1" in warning
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
    order = prepare(image, network, "nuclei", output=tmp_path / "out.zarr")
    assert order.volume.level == level
    assert order.level_is_automatic == (level > 0)


def test_what_the_user_says_comes_before_voxel_sizes(
    tmp_path: Path, write_image: Any, labels: NDArray[Any]
) -> None:
    image, out = pyramid(write_image, labels), tmp_path / "out.zarr"
    network = network_of(labels, voxels=(2.0, 2.0), diameter=12.0)
    assert prepare(image, network, "a", output=out, level=1).volume.level == 1
    assert prepare(image, network, "a", output=out, object_diameter=12).volume.level == 0
    opened = es.open_volume(image)
    assert prepare(opened, network, "a", output=out).volume.level == 0
    unknowing = network_of(labels)
    assert prepare(image, unknowing, "a", output=out).volume.level == 0


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
    assert "--level 2 or --object-diameter voxel-size" in warning
    assert voxel_size_warning(volume, network_of(labels, voxels=(0.6, 0.6)), same) is None
    assert voxel_size_warning(volume, network, Resampling(labels.shape, (32, 32))) is None
    assert nearest_level(volume, network) == 2


@pytest.mark.parametrize("diameter", [8, 20, 40])
def test_discs_are_as_wide_as_they_are(diameter: int) -> None:
    y, x = np.mgrid[:200, :200]
    image = np.zeros((200, 200), np.float32)
    for cy, cx in ((50, 50), (50, 150), (150, 60), (140, 150)):
        image[(y - cy) ** 2 + (x - cx) ** 2 < (diameter / 2) ** 2] = 1
    assert blob_diameter(image[None], of_balls=False) == pytest.approx(diameter, rel=0.25)


def test_there_are_no_blobs_in_nothing() -> None:
    assert blob_diameter(np.zeros((1, 64, 64), np.float32), of_balls=False) is None
    assert blob_diameter(np.zeros((1, 5, 64), np.float32), of_balls=False) is None


def test_a_constant_image_has_no_objects_to_suggest_from() -> None:
    with pytest.raises(VolumeError, match="constant"):
        suggest_diameter(np.full((64, 64), 7, np.uint8))


def test_a_region_to_suggest_from_lies_in_the_image() -> None:
    with pytest.raises(UsageError, match="choose voxels of 0:64,0:64"):
        suggest_diameter(np.full((64, 64), 7, np.uint8), region=[(0, 65), (0, 64)])


@pytest.mark.parametrize("factor", [1, 3])
def test_a_suggestion_is_about_as_wide_as_the_objects(factor: int) -> None:
    rng = np.random.default_rng(0)
    discs = synthetic_embryo((160, 160), density=0.3, diameter=16, seed=4) > 0
    image = np.kron(discs, np.ones((factor, factor))) * 180 + 20
    image = (image + rng.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8)
    found = suggest_diameter(image)
    assert found.objects >= 5
    assert found.diameter == pytest.approx(16 * factor, rel=0.25)
    assert found.as_dict()["mismatch"] == (factor == 3)


def test_suggest_prints_the_command_to_run(tmp_path: Path) -> None:
    import tifffile

    discs = synthetic_embryo((200, 200), density=0.3, diameter=46, seed=4) > 0
    tifffile.imwrite(tmp_path / "my image.tif", (discs * 180 + 20).astype(np.uint8))
    command = ["suggest", str(tmp_path / "my image.tif"), "--axes", "yx", "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    size = f"{told['object_diameter']:.0f}"
    assert told["command"].endswith(f"my image.tif' --axes yx --object-diameter {size}")
    failed = CliRunner().invoke(app, [*command, "--region", "0:10"])
    assert failed.exit_code == 2


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
