"""OME-Zarr 0.6: voxel sizes are found where it puts them, and what it says is repeated."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedseg_large.errors import MetadataError
from embedseg_large.volumes.coordinate_systems import (
    CoordinateFrame,
    flattened,
    frame_of,
    with_systems,
)
from embedseg_large.volumes.volume import open_volume

WriteImage = Callable[..., Path]
Step = dict[str, Any]

ZYX = [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
CZYX = [{"name": "c", "type": "channel"}, *ZYX]
INDICES = [{"name": a, "type": "array"} for a in "zyx"]
VOXELS = np.arange(4 * 6 * 8, dtype=np.uint16).reshape(4, 6, 8)


def scale(*values: float) -> Step:
    return {"type": "scale", "scale": list(values)}


def shift(*values: float) -> Step:
    return {"type": "translation", "translation": list(values)}


def sequence(*steps: Step) -> Step:
    return {"type": "sequence", "transformations": list(steps)}


def matrix(kind: str, *rows: str) -> Step:
    return {"type": kind, kind: [[int(digit) for digit in row] for row in rows]}


def multiscale(
    *steps: Step, axes: list[dict[str, str]] = ZYX, system: str = "intrinsic", **more: Any
) -> dict[str, Any]:
    """Levels "0", "1", ... whose arrays lead to one system by these transformations."""
    datasets = [
        {
            "path": str(i),
            "coordinateTransformations": [
                {**step, "input": {"path": str(i)}, "output": {"name": system}}
            ],
        }
        for i, step in enumerate(steps)
    ]
    systems = [{"name": system, "axes": axes}, *more.pop("systems", ())]
    return {"coordinateSystems": systems, "datasets": datasets, **more}


@pytest.mark.parametrize("version", ["0.6", "0.6rc0", "0.6.dev4"])
def test_scale_and_translation_of_each_level_are_found(
    write_image: WriteImage, version: str
) -> None:
    levels = multiscale(scale(2, 0.5, 0.5), sequence(scale(2, 1, 1), shift(0, 0.25, 0.25)))
    path = write_image([VOXELS, VOXELS[:, ::2, ::2]], levels, version)
    fine, coarse = open_volume(path), open_volume(path, level=1)
    assert (fine.ngff_version, fine.stored_axes) == (version, "zyx")
    assert (fine.voxel_size, fine.origin) == ((2, 0.5, 0.5), (0, 0, 0))
    assert (coarse.voxel_size, coarse.origin) == ((2, 1, 1), (0, 0.25, 0.25))
    np.testing.assert_array_equal(coarse.data.compute(), VOXELS[:, ::2, ::2])


def test_a_translation_before_a_scale_is_scaled(write_image: WriteImage) -> None:
    levels = multiscale(sequence(shift(1, 2, 3), scale(2, 0.5, 0.5)))
    assert open_volume(write_image([VOXELS], levels, "0.6")).origin == (2, 1, 1.5)


def test_an_identity_is_one_unit_per_voxel(write_image: WriteImage) -> None:
    path = write_image([VOXELS], multiscale({"type": "identity"}), "0.6")
    assert open_volume(path).voxel_size == (1, 1, 1)


def test_pre_releases_named_systems_without_an_object(write_image: WriteImage) -> None:
    levels = multiscale(scale(2, 0.5, 0.5))
    for dataset in levels["datasets"]:
        dataset["coordinateTransformations"][0] |= {"input": "0", "output": "intrinsic"}
    assert open_volume(write_image([VOXELS], levels, "0.6.dev3")).voxel_size == (2, 0.5, 0.5)


def test_the_version_is_recognized_where_none_is_written(write_image: WriteImage) -> None:
    path = write_image([VOXELS], multiscale(scale(2, 1, 1)), "0.6", attributes={"version": None})
    stored = (path / "zarr.json").read_text().replace('"version": null,', "")
    (path / "zarr.json").write_text(stored)
    assert open_volume(path).ngff_version == "0.6"


def test_what_leads_on_from_the_intrinsic_system_changes_no_voxel_size(
    write_image: WriteImage,
) -> None:
    world = {"name": "world", "axes": ZYX}
    turn = matrix("rotation", "010", "100", "001")
    turn |= {"input": {"name": "intrinsic"}, "output": {"name": "world"}}
    levels = multiscale(scale(2, 0.5, 0.5), systems=[world], coordinateTransformations=[turn])
    assert open_volume(write_image([VOXELS], levels, "0.6")).voxel_size == (2, 0.5, 0.5)


def test_of_a_system_of_indices_the_size_is_that_of_the_system_it_leads_to(
    write_image: WriteImage,
) -> None:
    physical = {"name": "physical", "axes": ZYX}
    size = sequence(scale(2, 0.5, 0.5), shift(10, 0, 0))
    size |= {"input": {"name": "indices"}, "output": {"name": "physical"}}
    levels = multiscale(
        {"type": "identity"},
        scale(1, 2, 2),
        axes=INDICES,
        system="indices",
        systems=[physical],
        coordinateTransformations=[size],
    )
    path = write_image([VOXELS, VOXELS[:, ::2, ::2]], levels, "0.6")
    assert open_volume(path).voxel_size == (2, 0.5, 0.5)
    assert open_volume(path, level=1).voxel_size == (2, 1, 1)
    assert open_volume(path, level=1).origin == (10, 0, 0)


def test_indices_that_lead_nowhere_have_no_size(write_image: WriteImage) -> None:
    levels = multiscale({"type": "identity"}, axes=INDICES, system="indices")
    volume = open_volume(write_image([VOXELS], levels, "0.6"))
    assert (volume.axes, volume.voxel_size) == ("zyx", None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coordinateSystems": None}, "no coordinateSystems"),
        ({"coordinateSystems": [{"axes": ZYX}]}, "needs a name of its own and axes"),
        ({"coordinateSystems": [{"name": "a", "axes": ZYX}]}, r"'intrinsic', which is not one of"),
        ({"datasets": []}, "no datasets"),
        ({"datasets": ["0"]}, "needs a path"),
        ({"datasets": [{"path": "0"}]}, "no coordinateTransformations"),
    ],
)
def test_what_is_missing_is_one_line(
    write_image: WriteImage, change: dict[str, Any], message: str
) -> None:
    path = write_image([VOXELS], multiscale(scale(2, 1, 1)) | change, "0.6")
    with pytest.raises(MetadataError, match=rf"^[^\n]*{message}[^\n]*$"):
        open_volume(path)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"type": "rotation", "rotation": [[1, 0], [0, 1]]}, "'rotation'; supported: identity, sc"),
        ({"type": "displacements", "path": "field"}, "'displacements'; supported"),
        ({"type": "scale", "scale": [1, 2]}, "is not 3 numbers, one per axis"),
        ({"type": "scale", "scale": [1, 2, "3"]}, "is not 3 numbers, one per axis"),
        ({"type": "sequence", "transformations": [{}]}, "has no type"),
    ],
)
def test_voxels_that_are_not_a_grid_are_refused(
    write_image: WriteImage, step: Step, message: str
) -> None:
    path = write_image([VOXELS], multiscale(step), "0.6")
    with pytest.raises(MetadataError, match=rf"^[^\n]*{message}[^\n]*$"):
        open_volume(path)


def test_levels_in_different_systems_are_refused(write_image: WriteImage) -> None:
    levels = multiscale(scale(1, 1, 1), scale(2, 2, 2), systems=[{"name": "b", "axes": ZYX}])
    levels["datasets"][1]["coordinateTransformations"][0]["output"] = {"name": "b"}
    with pytest.raises(MetadataError, match="lead to 2 coordinate systems, not 1"):
        open_volume(write_image([VOXELS, VOXELS[::2, ::2, ::2]], levels, "0.6"))


def test_writing_and_reading_are_inverse() -> None:
    old = {
        "name": "nuclei",
        "axes": ZYX,
        "datasets": [
            {"path": "0", "coordinateTransformations": [scale(2.0, 0.5, 0.5)]},
            {"path": "1", "coordinateTransformations": [scale(2, 1, 1), shift(0, 1, 2)]},
        ],
    }
    assert flattened(with_systems(old, CoordinateFrame(intrinsic="scanner")), "here") == old


def around(transform: Step, axes: list[dict[str, str]] = CZYX) -> dict[str, Any]:
    """An image with channels, and one transformation to a system "world"."""
    transform = transform | {"input": {"name": "intrinsic"}, "output": {"name": "world"}}
    return multiscale(
        scale(1, 2, 0.5, 0.5),
        axes=CZYX,
        systems=[{"name": "world", "axes": axes}],
        coordinateTransformations=[transform],
    )


@pytest.mark.parametrize(
    ("stored", "kept"),
    [
        ({"type": "identity"}, {"type": "identity"}),
        (scale(1, 2, 3, 4), scale(2, 3, 4)),
        (sequence(scale(1, 2, 3, 4), shift(9, 8, 7, 6)), sequence(scale(2, 3, 4), shift(8, 7, 6))),
        (
            matrix("rotation", "1000", "0001", "0010", "0100"),
            matrix("rotation", "001", "010", "100"),
        ),
        (
            matrix("affine", "10009", "02008", "01307", "00046"),
            matrix("affine", "2008", "1307", "0046"),
        ),
    ],
)
def test_labels_repeat_transformations_without_the_channels(stored: Step, kept: Step) -> None:
    frame = frame_of(around(stored), (1, 2, 3), "here")
    assert frame.systems == ({"name": "world", "axes": ZYX},)
    (transform,) = frame.transformations
    ends = {"input": {"name": "intrinsic"}, "output": {"name": "world"}}
    assert transform == kept | ends


@pytest.mark.parametrize(
    "stored",
    [
        {"type": "displacements", "path": "field"},
        {"type": "mapAxis", "mapAxis": [0, 2, 1, 3]},
        {"type": "affine", "affine": [[1, 1, 0, 0, 0]] * 4},
        sequence({"type": "affine", "path": "matrix"}),
    ],
)
def test_what_labels_cannot_repeat_is_reported(
    stored: Step, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        frame = frame_of(around(stored), (1, 2, 3), "here")
    assert frame == CoordinateFrame()
    kind = stored["type"]
    assert f"here: labels do not repeat its transformation of type {kind}" in caplog.messages
