"""Objects of another size than the model's: resampled on the fly, labels at full resolution."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from typer.testing import CliRunner

import embedseg_large as es
from embedseg_large.cli.app import app
from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.network.checkpoint import load_model
from embedseg_large.segmentation.request.scale import resampling_for
from embedseg_large.segmentation.stages.predict import slabs
from embedseg_large.testing.oracle import OracleNetwork
from embedseg_large.testing.synthetic import synthetic_embryo
from embedseg_large.tiling.resampling import Resampling

SHAPE = (48, 56, 64)


@dataclass(frozen=True, kw_only=True, eq=False)
class KnowsItsGrid(OracleNetwork):
    """Answers by place alone: what it knows are the labels on the model's grid."""

    known: NDArray[Any]
    diameter: float = 11.0

    @property
    def object_diameter(self) -> float:
        """As stated."""
        return self.diameter

    def predict_tile(
        self,
        image: NDArray[np.float32],
        region: Box,
        tta: bool | int | str = "none",  # noqa: ARG002  (an oracle has one view)
    ) -> NDArray[np.float16]:
        """Predict what is known of a region, if the image looks like it."""
        ids = self.known[region.slices]
        inside = image[0][ids > 0]
        assert not inside.size or (inside > 0.5).mean() > 0.8  # the right place of the image
        return self.objects.predict(ids.astype(np.int64), region, self.flaws)


@pytest.fixture(scope="module")
def known() -> NDArray[Any]:
    return synthetic_embryo(SHAPE, density=0.5, diameter=11, seed=1).astype(np.uint16)


def network_of(known: NDArray[Any]) -> KnowsItsGrid:
    oracle = OracleNetwork.of(known, tile=(24, 24, 24), min_object_size=4)
    return KnowsItsGrid(objects=oracle.objects, tile=oracle.tile, min_object_size=4, known=known)


def magnified(labels: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    grid, whole = Resampling(shape, labels.shape), Box.whole(shape)
    return grid.labels(labels[grid.covering(whole).slices], whole)


def matched(found: NDArray[Any], wanted: NDArray[Any]) -> bool:
    """Whether two label images are equal up to the numbers."""
    pairs = np.unique(np.stack([found.ravel(), wanted.ravel()]), axis=1)
    return all(len(np.unique(side)) == pairs.shape[1] for side in pairs)


@pytest.mark.parametrize(
    ("shape", "voxel_size"),
    [
        ((32, 112, 128), (1.5, 0.5, 0.5)),
        pytest.param((96, 112, 128), None, marks=pytest.mark.slow),
    ],
)
def test_large_objects_are_found_and_labelled_at_full_resolution(
    tmp_path: Path,
    known: NDArray[Any],
    shape: tuple[int, ...],
    voxel_size: tuple[float, ...] | None,
) -> None:
    wanted = magnified(known, shape)
    image = (wanted > 0).astype(np.uint8) * 200
    options: dict[str, Any] = {"object_diameter": 22, "intensity_range": (0, 200)}
    found = []
    for name, tiles in (("a", {}), ("b", {"cluster_tile": (20, 33, 27)}), ("c", {"workers": 1})):
        result = es.segment(
            image,
            network_of(known),
            output=tmp_path / f"{name}.zarr",
            voxel_size=voxel_size,
            **options,
            **tiles,
        )
        assert result.seams.joined == 0
        assert result.summary["volume"]["grid"] == list(SHAPE)
        found.append(np.asarray(result.labels))
    assert found[0].shape == shape
    assert matched(found[0], wanted)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_small_objects_are_magnified(tmp_path: Path, known: NDArray[Any]) -> None:
    shape = (32, 37, 43)
    wanted = magnified(known, shape)
    image = (wanted > 0).astype(np.uint8) * 200
    result = es.segment(
        image,
        network_of(known),
        output=tmp_path / "out.zarr",
        object_diameter=11 / 1.5,
        intensity_range=(0, 200),
    )
    assert result.summary["volume"]["grid"][1:] == [56, 64]
    assert matched(np.asarray(result.labels), wanted)


def test_a_diameter_like_the_models_changes_nothing(tmp_path: Path, known: NDArray[Any]) -> None:
    image = (known > 0).astype(np.uint8)
    plain, stated = (
        es.segment(
            image,
            network_of(known),
            output=tmp_path / f"{diameter}.zarr",
            object_diameter=diameter,
            intensity_range=(0, 1),
        )
        for diameter in (None, 11)
    )
    np.testing.assert_array_equal(np.asarray(plain.labels), np.asarray(stated.labels))
    assert plain.summary["token"] == stated.summary["token"]


def zoom(
    known: NDArray[Any], diameter: float | str, voxel_size: tuple[float, ...] | None
) -> tuple[int, ...]:
    volume = es.open_volume(np.zeros((100, 200, 300), np.uint8), voxel_size=voxel_size)
    return resampling_for(volume, network_of(known), diameter).target


@pytest.mark.parametrize(
    ("diameter", "voxel_size", "target"),
    [
        (22, None, (50, 100, 150)),
        ("22", (1.0, 0.5, 0.5), (100, 100, 150)),
        ("5.5um", (0.5, 0.5, 0.5), (100, 200, 300)),
        ("11 µm", (1.0, 0.5, 0.5), (100, 100, 150)),
        (5.5, None, (200, 400, 600)),
        ("11,22", None, (100, 100, 150)),
        ("11, 22", (1.0, 0.5, 0.5), (100, 100, 150)),
        ("5.5um,11um", (1.0, 0.5, 0.5), (200, 100, 150)),
    ],
)
def test_diameters_are_voxels_along_x_or_micrometres(
    known: NDArray[Any],
    diameter: float | str,
    voxel_size: tuple[float, ...] | None,
    target: tuple[int, ...],
) -> None:
    assert zoom(known, diameter, voxel_size) == target


@pytest.mark.parametrize(
    ("diameter", "voxel_size", "text"),
    [
        ("12um", None, "voxel size of the image is not known"),
        ("wide", None, "pass voxels"),
        (-3, None, "pass voxels"),
        ("7,", None, "pass voxels"),
        ("7,8,9", None, "pass depth and width"),
        ("7um,8", None, "voxel size of the image is not known"),
        ("1e", None, "pass voxels"),
        (1, None, "magnified by 11, 11, 11"),
        (1e4, None, "the supported range is"),
        ("voxel-size", None, "voxel size of the image is not known"),
        ("voxel-size", (1.0, 1.0, 1.0), "model does not know the voxel size"),
    ],
)
def test_diameters_that_say_nothing_are_refused(
    known: NDArray[Any],
    diameter: float | str,
    voxel_size: tuple[float, ...] | None,
    text: str,
) -> None:
    with pytest.raises(UsageError, match=text):
        zoom(known, diameter, voxel_size)


def test_an_image_without_z_has_one_diameter(known: NDArray[Any]) -> None:
    volume = es.open_volume(np.zeros((200, 300), np.uint8))
    with pytest.raises(UsageError, match="the image has no z"):
        resampling_for(volume, network_of(known), "7,15")


def test_by_voxel_size_the_grid_gets_that_of_the_model(known: NDArray[Any]) -> None:
    class Sized(KnowsItsGrid):
        @property
        def voxel_size(self) -> tuple[float, ...]:
            return (2.0, 0.5, 0.5)

    oracle = network_of(known)
    sized = Sized(objects=oracle.objects, tile=oracle.tile, known=known)
    volume = es.open_volume(np.zeros((100, 200, 300), np.uint8), voxel_size=(1.0, 0.25, 0.5))
    found = resampling_for(volume, sized, "voxel-size")
    assert found.target == (50, 100, 300)


def test_slabs_cover_a_box_and_need_few_voxels() -> None:
    grid = Resampling((500, 3000, 3000), (50, 300, 300))
    box = Box((8, 0, 0), (50, 300, 300))
    cut = slabs(grid, box)
    assert [p.start[0] for p in cut[1:]] == [p.stop[0] for p in cut[:-1]]
    assert (cut[0].start[0], cut[-1].stop[0]) == (8, 50)
    assert max(grid.needed(p).size for p in cut) < 40 * 3000 * 3000


def test_the_command_resamples_and_says_so(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.arange(40**3, dtype=np.uint16).reshape(40, 40, 40))
    paths = [str(tmp_path / "a.tif"), "--output", str(tmp_path / "o.zarr")]
    options = ["--object-diameter", "30", "--axes", "zyx", "--dry-run"]
    result = CliRunner().invoke(app, ["segment", *paths, *options])
    assert result.exit_code == 0
    width = load_model("nuclei-3d").object_diameter
    assert width is not None
    edge = round(40 * width / 30)
    assert f"{edge} x {edge} x {edge} voxels" in result.output
