"""Time series, and places where nobody needs to look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray

import embedseg_large as es
from embedseg_large.conversion.plan import write_image
from embedseg_large.embedding import background
from embedseg_large.errors import UsageError, VolumeError
from embedseg_large.geometry import Box
from embedseg_large.segmentation.stages.job import foreground_of
from embedseg_large.testing.objects import Objects
from embedseg_large.testing.oracle import OracleNetwork
from embedseg_large.testing.synthetic import synthetic_embryo
from embedseg_large.testing.tiers import slowly

Labels = NDArray[Any]
SHAPE = (40, 48, 48)


@pytest.fixture(scope="module")
def frames() -> list[Labels]:
    """Three timepoints with ids of their own, so that one oracle knows all."""
    found, ids = [], 0
    for n in range(3):
        frame = synthetic_embryo(SHAPE, n_objects=20 + 5 * n, diameter=11, seed=n).astype(np.uint16)
        found.append(np.where(frame > 0, frame + ids, 0).astype(np.uint16))
        ids = int(found[-1].max())
    return found


@pytest.fixture(scope="module")
def network(frames: list[Labels]) -> OracleNetwork:
    """Knows the objects of all frames."""
    tables = [Objects.of(frame) for frame in frames]
    centres, sigmas = tables[-1].centres.copy(), tables[-1].sigmas.copy()
    for table, frame in zip(tables, frames, strict=True):
        ids = np.unique(frame[frame > 0])
        centres[ids], sigmas[ids] = table.centres[ids], table.sigmas[ids]
    extent = tuple(np.max([table.extent for table in tables], axis=0).tolist())
    return OracleNetwork(
        objects=Objects(centres=centres, sigmas=sigmas, extent=extent), tile=(24, 24, 24)
    )


class Blind(OracleNetwork):
    """Sees nothing in any image."""

    def predict_tile(
        self, image: NDArray[np.float32], region: Box, tta: bool | int | str = False
    ) -> NDArray[np.float16]:
        assert image.size
        assert not tta or tta == "none"
        return background(region.shape)


def alone(frame: Labels, network: OracleNetwork, out: Path) -> Labels:
    result = es.segment(frame, network, output=out, intensity_range=(0, 1), cluster_tile=(30,) * 3)
    return np.asarray(result.labels)


@pytest.mark.parametrize("on_cluster", [False, *slowly(True)], ids=["serial", "cluster"])
def test_every_timepoint_has_the_labels_it_has_alone(
    tmp_path: Path, frames: list[Labels], network: Any, client: Any, on_cluster: bool
) -> None:
    store = tmp_path / "series.ome.zarr"
    write_image(store, np.stack(frames), "tzyx")
    where: dict[str, Any] = {"client": client} if on_cluster else {}
    result = es.segment(store, network, intensity_range=(0, 1), cluster_tile=(30,) * 3, **where)
    labels = np.asarray(result.labels)
    assert labels.shape == (3, *SHAPE)
    counts = {}
    for n, frame in enumerate(frames):
        np.testing.assert_array_equal(labels[n], alone(frame, network, tmp_path / f"{n}.zarr"))
        counts[n] = int(labels[n].max())
    assert len(set(counts.values())) == 3
    assert result.summary["timepoints"] == counts
    assert result.n_instances == sum(counts.values())
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["series.ome.zarr", "0.zarr", "1.zarr", "2.zarr"]
    )


def test_chosen_timepoints_leave_the_others_empty(
    tmp_path: Path, frames: list[Labels], network: Any
) -> None:
    options: dict[str, Any] = {"axes": "tzyx", "intensity_range": (0, 1)}
    out = tmp_path / "out.zarr"
    result = es.segment(np.stack(frames), network, output=out, timepoint=(2, 0, 2), **options)
    assert list(result.summary["timepoints"]) == [0, 2]
    labels = np.asarray(result.labels)
    assert labels[0].any()
    assert not labels[1].any()
    assert labels[2].any()
    for wrong in ((0, 3), (-1,), ()):
        with pytest.raises(UsageError, match="timepoint"):
            es.segment(np.stack(frames), network, output=out, timepoint=wrong, **options)


def test_a_series_goes_on_at_the_timepoint_where_it_stopped(
    tmp_path: Path, frames: list[Labels], network: Any
) -> None:
    class Stop:
        tiles = 0

        def begin(self, stage: str, tiles: int) -> None: ...

        def advance(self, stage: str) -> None:
            self.tiles += stage == "predict"
            if self.tiles == 12:
                raise KeyboardInterrupt

    series, out = np.stack(frames), tmp_path / "out.zarr"
    options: dict[str, Any] = {"output": out, "axes": "tzyx", "intensity_range": (0, 1)}
    with pytest.raises(KeyboardInterrupt):
        es.segment(series, network, watcher=Stop(), **options)
    result = es.segment(series, network, **options)
    assert result.summary["resumed"]["predict"] == 11
    for n, frame in enumerate(frames):
        np.testing.assert_array_equal(
            np.asarray(result.labels[n]), alone(frame, network, tmp_path / f"{n}.zarr")
        )


def test_statistics_are_of_all_timepoints_or_of_each(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    series = np.stack([rng.integers(0, 100 * (n + 1), (24, 24, 24)) for n in range(2)])
    network = Blind.of(np.ones((24, 24, 24), np.uint16))
    options: dict[str, Any] = {"axes": "tzyx", "overwrite": True, "output": tmp_path / "out.zarr"}
    result = es.segment(series.astype(np.uint16), network, **options)
    (together,) = result.summary["intensity"]
    np.testing.assert_allclose(
        [together["low"], together["high"]], np.percentile(series, (1, 99.8))
    )
    result = es.segment(series.astype(np.uint16), network, intensity_per_timepoint=True, **options)
    for frame, (found,) in zip(series, result.summary["intensity"], strict=True):
        np.testing.assert_allclose([found["low"], found["high"]], np.percentile(frame, (1, 99.8)))


@pytest.mark.parametrize("chosen", [1, (1,)])
def test_a_timepoint_alone_is_normalised_like_the_series(tmp_path: Path, chosen: Any) -> None:
    frame = np.where(synthetic_embryo((48, 48), n_objects=6, diameter=11, seed=1) > 0, 1000, 100)
    series = np.stack([frame, (frame - 100) // 8 + 100]).astype(np.uint16)
    options: dict[str, Any] = {"axes": "tyx", "object_diameter": 11, "intensity_field": "smooth"}
    whole = es.segment(series, "classical", output=tmp_path / "a.zarr", **options)
    one = es.segment(series, "classical", output=tmp_path / "b.zarr", timepoint=chosen, **options)
    assert one.summary["intensity"] == whole.summary["intensity"]
    assert one.summary["intensity_field"] == whole.summary["intensity_field"]
    np.testing.assert_array_equal(np.asarray(one.labels[1]), np.asarray(whole.labels[1]))


def test_kept_predictions_of_a_series(tmp_path: Path, frames: list[Labels], network: Any) -> None:
    options: dict[str, Any] = {"axes": "tzyx", "intensity_range": (0, 1)}
    series, out = np.stack(frames), tmp_path / "out.zarr"
    first = es.segment(series, network, output=out, keep_predictions=True, **options)
    kept = first.summary["predictions"]
    again = es.segment(
        series,
        network,
        output=tmp_path / "b.zarr",
        from_predictions=kept,
        timepoint=(1,),
        **options,
    )
    np.testing.assert_array_equal(again.labels[1].compute(), first.labels[1].compute())
    assert "predict" not in again.summary["stages"]


# -- where to look ---------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1, 2])
def test_nothing_outside_a_mask_is_found_and_its_tiles_are_not_predicted(
    tmp_path: Path, frames: list[Labels], network: Any, factor: int
) -> None:
    frame = frames[0]
    mask = np.zeros(tuple(n // factor for n in SHAPE), np.uint8)
    mask[:, : 24 // factor] = 1
    inside = np.zeros(SHAPE, bool)
    inside[:, :24] = True
    found = [
        es.segment(
            frame,
            network,
            output=tmp_path / f"{edge}.zarr",
            mask=mask,
            cluster_tile=(edge,) * 3,
            intensity_range=(0, 1),
        )
        for edge in (20, 64)
    ]
    small, large = (np.asarray(f.labels) for f in found)
    np.testing.assert_array_equal(small, large)
    assert not small[~inside].any()
    whole = np.setdiff1d(frame[inside], frame[~inside])  # objects that the mask does not cut
    assert whole.size > 5
    within = np.isin(frame, whole)
    np.testing.assert_array_equal(
        small[within] > 0, alone(frame, network, tmp_path / "a.zarr")[within] > 0
    )
    assert found[0].summary["skipped"] == {"outside the mask": 4}


def test_dark_tiles_are_not_predicted(tmp_path: Path, frames: list[Labels], network: Any) -> None:
    frame = np.zeros((48, 64, 520), np.uint16)
    frame[:40, :48, :48] = frames[0]
    store = tmp_path / "dark.ome.zarr"
    write_image(store, frame, "zyx")
    assert len(es.open_volume(store).levels) > 1
    options: dict[str, Any] = {"intensity_range": (0, 1), "context": (8, 8, 8)}
    bright = es.segment(store, network, **options)
    dark = es.segment(store, network, labels="dark", dark_below=0.0, **options)
    np.testing.assert_array_equal(np.asarray(bright.labels), np.asarray(dark.labels))
    assert bright.n_instances > 10
    assert dark.summary["skipped"]["dark"] > 5


def test_an_unwritten_tile_is_not_predicted(tmp_path: Path, network: Any) -> None:
    store = tmp_path / "empty.zarr"
    array = zarr.create_array(store, shape=(48, 48, 96), chunks=(24, 24, 24), dtype="u2")
    array[:, :, :24] = 1
    volume = es.open_volume(store, axes="zyx")
    out = tmp_path / "out.zarr"
    result = es.segment(volume, network, output=out, intensity_range=(0, 1), context=(0, 0, 0))
    assert result.summary["skipped"] == {"no data": 12}


@pytest.mark.parametrize(
    ("mask", "complaint"),
    [
        (np.ones((40, 48), np.uint8), "axes"),
        (np.ones((17, 48, 48), np.uint8), "does not match any level of an image"),
        (np.ones((80, 48, 48), np.uint8), "larger than the image"),
    ],
)
def test_a_mask_of_another_image_is_refused(
    tmp_path: Path, frames: list[Labels], network: Any, mask: Labels, complaint: str
) -> None:
    with pytest.raises(VolumeError, match=complaint):
        es.segment(frames[0], network, output=tmp_path / "out.zarr", mask=mask)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("step", "translation", "complaint"),
    [
        (0.5, (0.0, 0.0), "voxels of 0.5 x 0.5 µm, but a mask .* has voxels of 1 x 1 µm"),
        (1.0, (0.0, 6.0), "begins 0, 6 µm beside the image"),
        (1.0, (0.25, 0.25), None),
    ],
)
def test_a_mask_of_another_part_of_space_is_refused(
    tmp_path: Path,
    network: Any,
    step: float,
    translation: tuple[float, float],
    complaint: str | None,
) -> None:
    write_image(tmp_path / "image.zarr", np.ones((48, 48), np.uint16), voxel_size=(0.5, 0.5))
    group = zarr.open_group(tmp_path / "image.zarr")
    placed(group, (0.5, 0.5), (0.0, 0.0))
    write_image(tmp_path / "mask.zarr", np.ones((24, 24), np.uint8), voxel_size=(step, step))
    placed(zarr.open_group(tmp_path / "mask.zarr"), (step, step), translation)
    image = es.open_volume(tmp_path / "image.zarr")
    if complaint is None:
        foreground_of(image, network, tmp_path / "mask.zarr", None)
        return
    with pytest.raises(VolumeError, match=complaint):
        foreground_of(image, network, tmp_path / "mask.zarr", None)


def placed(group: zarr.Group, scale: tuple[float, ...], translation: tuple[float, ...]) -> None:
    """Give the only level of an image a scale and a translation."""
    about: Any = group.attrs["ome"]
    about["multiscales"][0]["datasets"][0]["coordinateTransformations"] = [
        {"type": "scale", "scale": list(scale)},
        {"type": "translation", "translation": list(translation)},
    ]
    group.attrs["ome"] = about


def test_a_mask_of_the_shape_of_the_image_may_have_any_voxel_size(network: Any) -> None:
    image = es.open_volume(np.ones((8, 8), np.uint16), axes="yx", voxel_size=(0.5, 0.5))
    mask = es.open_volume(np.ones((8, 8), np.uint8), axes="yx", voxel_size=(1.0, 1.0))
    assert foreground_of(image, network, mask, None).mask is mask


def test_nan_is_outside_of_a_mask() -> None:
    from embedseg_large.segmentation.stages.job import Foreground

    mask = np.array([[np.nan, 1.0], [0.0, -2.0]], np.float32)
    where = Foreground(mask=es.open_volume(mask, axes="yx"))
    found = where.inside(Box((0, 0), (2, 2)), (2, 2), None)
    np.testing.assert_array_equal(found, [[False, True], [False, True]])


def test_darkness_needs_a_coarser_level(tmp_path: Path, frames: list[Labels], network: Any) -> None:
    with pytest.raises(UsageError, match="no coarser level"):
        es.segment(frames[0], network, output=tmp_path / "out.zarr", dark_below=3)


def test_the_mask_of_a_plain_tiff_has_the_axes_of_the_image(tmp_path: Path, network: Any) -> None:
    tifffile.imwrite(tmp_path / "mask.tif", np.ones((6, 8, 10), np.uint8))
    image = es.open_volume(np.zeros((12, 16, 20), np.uint16), axes="zyx")
    found = foreground_of(image, network, tmp_path / "mask.tif", None).mask
    assert found is not None
    assert found.axes == "zyx"


def test_the_box_of_a_mask_is_looked_up_by_the_middle_of_voxels() -> None:
    from embedseg_large.segmentation.stages.job import Foreground

    mask = np.array([[0, 1], [1, 0]], np.uint8)
    where = Foreground(mask=es.open_volume(mask, axes="yx"))
    found = where.inside(Box((0, 1), (4, 4)), (4, 4), None)
    np.testing.assert_array_equal(found, np.kron(mask, np.ones((2, 2)))[:, 1:] > 0)
