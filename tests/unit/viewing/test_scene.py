"""What is shown: the image and its labels at all levels, with a contrast that fits."""

from __future__ import annotations

import json
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from embedseg_large.conversion.convert import convert
from embedseg_large.conversion.plan import write_image
from embedseg_large.data import copy_demo
from embedseg_large.errors import UsageError, VolumeError, VolumeNotFoundError
from embedseg_large.geometry import Box
from embedseg_large.labels.target import label_target
from embedseg_large.viewing import napari_window, neuroglancer, scene
from embedseg_large.viewing import planes as planes_module
from embedseg_large.viewing.planes import Planes, Wanted
from embedseg_large.viewing.scene import open_scene
from embedseg_large.volumes.intensity import PERCENTILES
from embedseg_large.volumes.volume import Volume, open_volume

SHAPE = (24, 300, 40)


def image() -> NDArray[np.uint16]:
    """Brighter along y, so that pictures can tell where they were cut."""
    y = np.arange(SHAPE[1], dtype=np.uint16)[None, :, None]
    return np.broadcast_to(10 * y, SHAPE).copy()


def labels() -> NDArray[np.uint32]:
    """One object, of which a plane at z = 10 shows the outline."""
    found = np.zeros(SHAPE, np.uint32)
    found[5:15, 100:200, 10:30] = 7
    return found


def add_labels(store: Path, name: str, provenance: dict[str, Any] | None = None) -> None:
    pending = label_target(open_volume(store), name).create(np.uint32)
    for level in range(pending.n_levels):
        for box in pending.regions(level):
            if level:
                pending.downsample(level, box)
            else:
                pending.write(level, box, labels()[box.slices])
    pending.publish(provenance or {})


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_image(tmp_path / "a.ome.zarr", image(), "zyx", (2.0, 0.5, 0.5), chunks=(8, 32, 32))
    return tmp_path / "a.ome.zarr"


def test_all_levels_and_labels_are_shown(store: Path) -> None:
    for name in ("nuclei", "cells"):
        add_labels(store, name)
    found = open_scene(str(store))
    assert [v.spatial_shape for v in found.image.levels] == [SHAPE, (24, 150, 40)]
    assert [layer.name for layer in found.labels] == ["cells", "nuclei"]
    assert [layer.name for layer in open_scene(str(store), "nuclei").labels] == ["nuclei"]
    through = open_scene(str(store / "labels" / "nuclei"))
    assert through.image.path == str(store)
    assert [layer.name for layer in through.labels] == ["nuclei"]


def test_labels_that_are_not_there_are_answered_with_those_that_are(store: Path) -> None:
    with pytest.raises(UsageError, match="no labels 'x', there are none"):
        open_scene(str(store), "x")
    add_labels(store, "nuclei")
    with pytest.raises(UsageError, match="no labels 'x', there are nuclei"):
        open_scene(str(store), "x")
    with pytest.raises(UsageError, match="a label volume itself"):
        open_scene(str(store / "labels" / "nuclei"), "nuclei")
    with pytest.raises(VolumeNotFoundError, match="no such file"):
        open_scene(str(store.parent / "absent"))


def test_labels_that_are_only_listed_are_left_out(store: Path) -> None:
    for name in ("nuclei", "gone"):
        add_labels(store, name)
    shutil.rmtree(store / "labels" / "gone")
    assert [layer.name for layer in open_scene(str(store)).labels] == ["nuclei"]
    with pytest.raises(VolumeNotFoundError, match="labels/gone"):
        open_scene(str(store), "gone")


def test_labels_elsewhere_must_be_of_this_image(store: Path, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "mine.tif", labels(), metadata={"axes": "ZYX"})
    found = open_scene(str(store), str(tmp_path / "mine.tif"))
    assert [layer.name for layer in found.labels] == ["mine.tif"]
    tifffile.imwrite(tmp_path / "other.tif", labels()[:5], metadata={"axes": "ZYX"})
    with pytest.raises(UsageError, match=r"labels of shape \(5, 300, 40\) do not match"):
        open_scene(str(store), str(tmp_path / "other.tif"))
    tifffile.imwrite(tmp_path / "float.tif", labels().astype(np.float32), metadata={"axes": "ZYX"})
    with pytest.raises(VolumeError, match="float32 are not labels"):
        open_scene(str(store), str(tmp_path / "float.tif"))


def test_the_contrast_is_what_the_network_saw(store: Path) -> None:
    about = {"volume": {"channel": 0}, "intensity": [{"low": 27.0, "high": 1084.0}]}
    add_labels(store, "nuclei", about)
    assert open_scene(str(store)).contrast == ((27.0, 1084.0),)


def test_else_the_contrast_is_what_the_image_says_or_percentiles(tmp_path: Path) -> None:
    two = np.stack([image(), 2 * image()])
    write_image(tmp_path / "a.zarr", two, "czyx", channel_names=["a", "b"])
    assert open_scene(str(tmp_path / "a.zarr")).contrast[1] == (10, 5970)  # of the coarse level
    write_image(tmp_path / "b.zarr", two, "czyx")
    low, high = open_scene(str(tmp_path / "b.zarr")).contrast[1]
    assert (low, high) == pytest.approx(np.percentile(two[1], PERCENTILES))


def test_the_contrast_of_a_large_level_is_that_of_a_plane(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene, "MOST_VOXELS", 100)
    assert open_scene(str(store)).contrast[0] == pytest.approx((25, 2970), abs=20)


def test_an_image_without_finite_voxels_has_a_contrast(tmp_path: Path) -> None:
    write_image(tmp_path / "a.zarr", np.full((4, 8, 8), np.nan, np.float32), "zyx")
    assert open_scene(str(tmp_path / "a.zarr")).contrast == ((0, 1),)


def test_a_link_to_neuroglancer_holds_sources_and_contrast(store: Path) -> None:
    add_labels(store, "nuclei")
    found = open_scene(str(store))
    link = neuroglancer.link(found, lambda layer: f"http://here/{layer.name}")
    assert link is not None
    site, _, text = link.partition("/#!")
    assert site == "https://neuroglancer-demo.appspot.com"
    state = json.loads(unquote(text))
    assert list(state["dimensions"]) == ["x", "y", "z"]  # planes of y and x come first
    assert state["dimensions"]["z"] == [2e-6, "m"]
    first, second = state["layers"]
    assert (first["type"], first["source"]) == ("image", "zarr3://http://here/image")
    assert first["shaderControls"]["normalized"]["range"] == list(found.contrast[0])
    assert (second["type"], second["source"]) == ("segmentation", "zarr3://http://here/nuclei")


def test_what_neuroglancer_cannot_read_has_no_link(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image(), metadata={"axes": "ZYX"})
    assert neuroglancer.link(open_scene(str(tmp_path / "a.tif")), str) is None
    write_image(tmp_path / "a.zarr", image(), ngff_version="0.4")
    state = neuroglancer.state(open_scene(str(tmp_path / "a.zarr")), lambda layer: layer.path)
    assert state["layers"][0]["source"] == f"zarr2://{tmp_path}/a.zarr"


def test_planes_have_the_proportions_of_the_specimen(store: Path) -> None:
    planes = Planes(open_scene(str(store)))
    sizes = {axis: (planes.panel(axis).height, planes.panel(axis).width) for axis in "zyx"}
    assert sizes == {"z": (640, 85), "y": (205, 85), "x": (205, 640)}
    for axis, size in sizes.items():
        assert planes.pixels(Wanted(axis=axis, index=3)).shape == (*size, 3)


def test_a_plane_shows_the_image_where_it_was_cut(store: Path) -> None:
    planes = Planes(open_scene(str(store)))
    shades = [planes.pixels(Wanted(axis="y", index=y)).mean() for y in (0, 150, 299)]
    assert shades[0] < 0.05 < shades[1] < 0.95 < shades[2]
    down = planes.pixels(Wanted(axis="z", index=0))[:, 40, 0]
    assert (np.diff(down) >= -1e-6).all()
    assert planes.png(Wanted(axis="x", index=0))[:4] == b"\x89PNG"


@pytest.mark.parametrize("style", ["outlines", "filled"])
def test_labels_are_drawn_where_they_are(store: Path, style: Any) -> None:
    add_labels(store, "nuclei")
    planes = Planes(open_scene(str(store)))

    def coloured(index: int, name: str = "nuclei") -> NDArray[np.bool_]:
        pixels = planes.pixels(Wanted(axis="z", index=index, labels=name, style=style))
        found: NDArray[np.bool_] = np.ptp(pixels, axis=2) > 0.01
        return found

    assert not coloured(2).any()
    assert not coloured(10, "").any()
    rows, columns = np.nonzero(coloured(10))
    pitch = 640 / 300
    assert (rows.min() / pitch, rows.max() / pitch) == pytest.approx((100, 200), abs=1)
    assert (columns.min() / pitch, columns.max() / pitch) == pytest.approx((10, 30), abs=1)
    inside = coloured(10)[int(150 * pitch), int(20 * pitch)]
    assert inside == (style == "filled")


def test_labels_of_another_level_are_drawn_in_the_same_place(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedseg_large.viewing.planes.LEVEL_VOXELS", 150_000)
    tifffile.imwrite(tmp_path / "mine.tif", labels(), metadata={"axes": "ZYX"})
    planes = Planes(open_scene(str(store), str(tmp_path / "mine.tif")))
    assert planes.shape == (24, 150, 40)
    pixels = planes.pixels(Wanted(axis="z", index=10, labels="mine.tif"))
    rows = np.nonzero((np.ptp(pixels, axis=2) > 0.01).any(axis=1))[0]
    pitch = len(pixels) / 300
    assert (rows.min() / pitch, rows.max() / pitch) == pytest.approx((100, 200), abs=2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"index": 24}, "no plane 24, there are 24"),
        ({"index": -1}, "no plane -1"),
        ({"axis": "t"}, "no planes along 't'"),
        ({"channel": 1}, "no channel 1"),
        ({"timepoint": 5}, "no timepoint 5"),
        ({"labels": "x"}, "no labels 'x'"),
    ],
)
def test_a_plane_that_is_not_there_is_refused(
    store: Path, wrong: dict[str, Any], message: str
) -> None:
    about: dict[str, Any] = {"axis": "z", "index": 0} | wrong
    wanted = Wanted(**about)
    with pytest.raises(UsageError, match=message):
        Planes(open_scene(str(store))).png(wanted)


def test_timepoints_and_channels_are_chosen(tmp_path: Path) -> None:
    series = np.zeros((2, 2, 8, 8), np.uint16)
    series[1, 1] = 100
    series[:, :, 0, 0] = 100
    write_image(tmp_path / "a.zarr", series, "tcyx")
    planes = Planes(open_scene(str(tmp_path / "a.zarr")))
    assert (planes.axes, planes.cut_axes()) == ("yx", "z")
    shades = [
        planes.pixels(Wanted(axis="z", index=0, timepoint=t, channel=c)).mean()
        for t, c in ((0, 1), (1, 0), (1, 1))
    ]
    assert shades[0] == shades[1] < 0.1 < shades[2]


def test_an_image_without_a_small_level_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image(), metadata={"axes": "ZYX"})
    monkeypatch.setattr("embedseg_large.viewing.planes.TOO_MANY_VOXELS", 1000)
    with pytest.raises(VolumeError, match="embedseg-large convert makes an image with a pyramid"):
        Planes(open_scene(str(tmp_path / "a.tif")))


def test_labels_without_a_small_level_are_not_read(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "mine.tif", labels(), metadata={"axes": "ZYX"})
    monkeypatch.setattr("embedseg_large.viewing.planes.LEVEL_VOXELS", 150_000)
    monkeypatch.setattr("embedseg_large.viewing.planes.TOO_MANY_VOXELS", 150_000)
    with pytest.raises(VolumeError, match=r"mine\.tif: no level is small enough to display"):
        Planes(open_scene(str(store), str(tmp_path / "mine.tif")))


def test_planes_that_are_asked_for_together_are_read_once(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_labels(store, "nuclei")
    found, reads = open_scene(str(store)), list[str]()
    read = planes_module._read

    def slowly(volume: Volume, timepoint: int) -> NDArray[Any]:
        reads.append(volume.name)
        time.sleep(0.1)
        return read(volume, timepoint)

    monkeypatch.setattr(planes_module, "_read", slowly)
    planes = Planes(found)
    with ThreadPoolExecutor(3) as pool:
        wanted = [Wanted(axis=axis, index=5, labels="nuclei") for axis in "zyx"]
        assert len(list(pool.map(planes.png, wanted))) == 3
    assert len(reads) == len(set(reads)) == 2


class Viewer:
    """As napari's; remembers what it was given."""

    def __init__(self, title: str = "") -> None:
        self.title = title
        self.layers: list[tuple[str, Any, dict[str, Any]]] = []
        opened.append(self)

    def add_image(self, data: Any, **options: Any) -> None:
        self.layers.append(("image", data, options))

    def add_labels(self, data: Any, **options: Any) -> None:
        self.layers.append(("labels", data, options))


opened: list[Viewer] = []


def test_napari_gets_lazy_pyramids_with_scale_and_contrast(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_labels(store, "nuclei")
    module = ModuleType("napari")
    module.__dict__.update(Viewer=Viewer, run=lambda: None)
    monkeypatch.setitem(sys.modules, "napari", module)
    found = open_scene(str(store))
    napari_window.show(found, "a title")
    viewer = opened.pop()
    (_, pyramid, options), (kind, objects, more) = viewer.layers
    assert (viewer.title, kind) == ("a title", "labels")
    assert [level.shape for level in pyramid] == [SHAPE, (24, 150, 40)]
    assert options["scale"] == more["scale"] == (2.0, 0.5, 0.5)
    assert options["units"] == ("um",) * 3
    assert options["contrast_limits"] == list(found.contrast[0])
    np.testing.assert_array_equal(objects[0][10].compute(), labels()[10])


def test_napari_gets_a_layer_for_each_channel(tmp_path: Path) -> None:
    write_image(tmp_path / "a.zarr", np.zeros((2, 3, 8, 8), np.uint16), "tcyx")
    viewer = Viewer()
    napari_window.add_layers(viewer, open_scene(str(tmp_path / "a.zarr")))
    opened.pop()
    ((_, data, options),) = viewer.layers
    assert data.shape == (2, 3, 8, 8)
    assert (options["channel_axis"], len(options["contrast_limits"])) == (1, 3)
    assert (options["scale"], options["units"]) == ((1.0,) * 3, ("pixel",) * 3)


def test_one_channel_is_chosen_by_number_or_name(tmp_path: Path) -> None:
    voxels = np.stack([image(), image() * 2])
    path = tmp_path / "two.ome.tif"
    tifffile.imwrite(path, voxels, metadata={"axes": "CZYX", "Channel": {"Name": ["GFP", "DAPI"]}})
    convert(path, tmp_path / "a.zarr")
    both = open_scene(str(tmp_path / "a.zarr"))
    assert both.image.channels == (0, 1)
    for asked in ("DAPI", "dapi", "1", 1):
        found = open_scene(str(tmp_path / "a.zarr"), channel=asked)
        assert found.image.channels == (1,)
        assert found.contrast == both.contrast[1:]
        wanted = [Wanted(axis="z", index=2, channel=number) for number in (0, 1)]
        plane = Planes(found).pixels(wanted[0])
        np.testing.assert_array_equal(plane, Planes(both).pixels(wanted[1]))
        with pytest.raises(UsageError, match="no channel 1, there are 1"):
            Planes(found).pixels(wanted[1])
        layer, *_ = neuroglancer.state(found, lambda layer: layer.path)["layers"]
        assert layer["localPosition"] == [1]
    with pytest.raises(UsageError, match=r"no channel 'RFP'; names are GFP, DAPI"):
        open_scene(str(tmp_path / "a.zarr"), channel="RFP")


def test_napari_without_a_screen_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(napari_window, "find_spec", lambda _: object())
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    assert not napari_window.is_available()
    monkeypatch.setenv("DISPLAY", ":0")
    assert napari_window.is_available()
    monkeypatch.setattr(napari_window, "find_spec", lambda _: None)
    assert not napari_window.is_available()


def test_boxes_of_a_level_hold_what_was_asked(store: Path) -> None:
    layer = open_scene(str(store)).image
    assert layer.level_of(10**9) is layer.levels[0]
    assert layer.level_of(150_000) is layer.levels[1]
    assert layer.level_of(1) is layer.levels[1]
    assert Box.whole(layer.levels[1].spatial_shape).size == 144_000


def test_a_store_in_a_folder_named_labels_is_shown_with_its_own_labels(tmp_path: Path) -> None:
    store = tmp_path / "labels" / "embryo.ome.zarr"
    store.parent.mkdir()
    copy_demo(store)
    scene = open_scene(str(store / "labels" / "truth"))
    assert scene.image.path == str(store)
    assert [layer.name for layer in scene.labels] == ["truth"]
