"""Proofreading in a window: what is pressed is decided, and shown in its place."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedseg_large.conversion.plan import write_image
from embedseg_large.data import copy_demo, load_demo
from embedseg_large.geometry import Box
from embedseg_large.labels.target import label_target
from embedseg_large.network.checkpoint import load_model
from embedseg_large.review.review import Review, open_review
from embedseg_large.volumes.volume import open_volume

if not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")):
    os.environ["QT_QPA_PLATFORM"] = "offscreen"  # without a screen Qt would end the process

WHY = "not installed: pip install 'embedseg-large[napari]' 'napari[pyqt6]' pytest-qt"
napari: Any = pytest.importorskip("napari", reason=WHY)
pytest.importorskip("qtpy.QtWidgets", reason=WHY)
pytest.importorskip("pytestqt", reason=WHY)

pytestmark = pytest.mark.filterwarnings("default")  # napari and its libraries have some

KEYS = "ADSJOWNVUR"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Labels of the embryo of the package, drawn by hand."""
    copy_demo(tmp_path / "embryo.ome.zarr")
    return tmp_path / "embryo.ome.zarr" / "labels" / "truth"


@pytest.fixture(scope="module")
def truth() -> NDArray[Any]:
    return load_demo().truth.astype(np.int64)


@pytest.fixture
def viewer() -> Any:
    """A viewer without a window, which would need OpenGL."""
    from napari.components import ViewerModel

    return ViewerModel()


@pytest.fixture
def panel(viewer: Any, qtbot: Any) -> Iterator[Any]:
    from embedseg_large.napari.widget import EmbedSegPanel

    panel = EmbedSegPanel(napari_viewer=viewer)
    qtbot.addWidget(panel)
    yield panel
    tabs = (panel.segmenting, panel.reviewing, panel.training)
    for tab in tabs:
        tab.background.cancel()
    wait(lambda: not any(tab.background.is_busy for tab in tabs))


@pytest.fixture
def tab(panel: Any, source: Path) -> Any:
    """The tab with an open review."""
    panel.reviewing.labels.value = source
    panel.reviewing.open.native.click()
    wait(lambda: not panel.reviewing.background.is_busy)
    assert panel.reviewing.review is not None, panel.reviewing.status.text()
    return panel.reviewing


def wait(until: Callable[[], bool], seconds: float = 60) -> None:
    """Let Qt work until something is so."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        QApplication.processEvents()
        time.sleep(0.01)


def press(viewer: Any, key: str) -> None:
    """Press a key, as the window does while the labels are the active layer."""
    (act,) = (act for known, act in viewer.keymap.items() if str(known) == key)
    act(viewer)


def point_at(viewer: Any, review: Review, voxel: Any) -> None:
    size = review.source.voxel_size or ()
    viewer.cursor.position = tuple(np.multiply(voxel, size))


def now(source: Path) -> NDArray[Any]:
    review = open_review(source)
    return review.read(Box.whole(review.voxels.shape))


def test_the_most_doubtful_instance_is_shown_in_its_place(viewer: Any, tab: Any) -> None:
    first = tab.review.queue[0]
    assert first.label == 55
    assert "1 of 61" in tab.about.text()
    assert "large, irregular, border" in tab.about.text()
    image, labels, mark = viewer.layers
    assert (image.name, labels.name, mark.name) == ("embryo.ome.zarr", "truth_reviewed", "instance")
    assert labels.selected_label == 55
    assert np.array_equal(mark.data > 0, labels.data == 55)
    assert np.count_nonzero(mark.data) == first.voxels
    size = np.array(tab.review.source.voxel_size)
    start = np.rint(labels.translate / size).astype(int)
    whole = tab.review.read(Box.whole(tab.review.voxels.shape))
    part = tuple(slice(a, a + n) for a, n in zip(start, labels.data.shape, strict=True))
    assert np.array_equal(whole[part], labels.data)
    assert labels.data.size < whole.size / 2
    middle = (np.add(first.box.start, first.box.stop) - 1) / 2 * size
    assert np.allclose(viewer.dims.point, middle, atol=size)
    assert np.allclose(viewer.scene.camera.center, middle, atol=size)


def test_nothing_is_read_of_a_lazy_image_until_it_is_shown(viewer: Any, tab: Any) -> None:
    import dask.array as da

    assert isinstance(viewer.layers[0].data, da.Array)
    assert viewer.layers[0].data.shape == tab.review.voxels.shape


def test_every_key_is_bound_and_has_a_button(viewer: Any, tab: Any) -> None:
    for provider in (viewer, viewer.layers[1]):
        assert set(KEYS) <= {str(key) for key in provider.keymap}
    assert "".join(tab.buttons) == KEYS
    assert all(button.enabled for button in tab.buttons.values())


def test_keys_accept_and_delete_and_go_on(viewer: Any, tab: Any, source: Path, truth: Any) -> None:
    labels = [tab.review.queue[place].label for place in range(3)]
    press(viewer, "A")
    assert viewer.layers[1].selected_label == labels[1]
    press(viewer, "D")
    assert viewer.layers[1].selected_label == labels[2]
    assert open_review(source).script() == f"accept {labels[0]}\ndelete {labels[1]}\n"
    assert np.array_equal(now(source), np.where(truth == labels[1], 0, truth))
    assert tab.status.text() == f"delete {labels[1]}"
    press(viewer, "V")
    assert "decided" in tab.about.text()
    press(viewer, "N")
    assert viewer.layers[1].selected_label == labels[2]


def test_two_points_split(viewer: Any, tab: Any, source: Path, truth: Any) -> None:
    voxels = np.argwhere(truth == 55)
    one, two = voxels[0], voxels[-1]
    point_at(viewer, tab.review, one)
    press(viewer, "S")
    assert "now point at the other part" in tab.status.text()
    point_at(viewer, tab.review, two)
    press(viewer, "S")
    assert tab.status.text().startswith("split 55")
    after = now(source)
    assert after[tuple(one)] == 55
    assert after[tuple(two)] == 62
    assert np.array_equal(after > 0, truth > 0)
    assert set(np.unique(viewer.layers[1].data)) >= {55, 62}


def test_a_point_beside_the_instance_is_said(viewer: Any, tab: Any, source: Path) -> None:
    for _ in range(2):
        point_at(viewer, tab.review, (0, 0, 0))
        press(viewer, "S")
    assert "two or more different points" in tab.status.text()
    point_at(viewer, tab.review, (500, 0, 0))
    press(viewer, "S")
    assert tab.status.text() == "point at the instance"
    assert open_review(source).decisions == []


def test_pointing_at_a_neighbour_merges_it(viewer: Any, tab: Any, source: Path, truth: Any) -> None:
    inside = np.argwhere(truth == 7)
    point_at(viewer, tab.review, inside[0])
    press(viewer, "J")
    assert np.array_equal(now(source), np.where(truth == 7, 55, truth))
    point_at(viewer, tab.review, (0, 0, 0))
    press(viewer, "J")
    assert tab.status.text() == "point at the neighbour that belongs to it"


@pytest.mark.usefixtures("tab")
def test_paint_is_kept_by_a_key_and_undone_by_another(
    viewer: Any, source: Path, truth: Any
) -> None:
    layer = viewer.layers[1]
    layer.brush_size, start = 5, np.argwhere(layer.data == 0)[0]
    layer.paint(tuple(start), 55)
    press(viewer, "U")
    assert np.array_equal(now(source), truth)
    assert not (layer.data[tuple(start)])
    layer.paint(tuple(start), 55)
    press(viewer, "W")
    after = now(source)
    assert np.count_nonzero(after == 55) > np.count_nonzero(truth == 55)
    assert np.array_equal(after[truth > 0], truth[truth > 0])
    press(viewer, "U")
    assert np.array_equal(now(source), truth)
    press(viewer, "R")
    assert np.array_equal(now(source), after)


@pytest.mark.usefixtures("tab")
def test_paint_is_kept_before_another_decision_is_made(viewer: Any, source: Path) -> None:
    layer = viewer.layers[1]
    layer.paint(tuple(np.argwhere(layer.data == 0)[0]), 55)
    press(viewer, "A")
    verbs = [line.split()[0] for line in open_review(source).script().splitlines()]
    assert verbs == ["paint", "accept"]


@pytest.mark.usefixtures("tab")
def test_a_new_object_gets_a_label_that_nothing_in_the_volume_has(
    viewer: Any, source: Path, truth: Any
) -> None:
    layer = viewer.layers[1]
    free_here = next(n for n in range(1, 61) if not (layer.data == n).any())
    press(viewer, "O")
    assert layer.selected_label == 62
    layer.selected_label = free_here  # as napari's own key for a new label does
    layer.paint(tuple(np.argwhere(layer.data == 0)[0]), free_here)
    press(viewer, "W")
    after = now(source)
    assert (after == 62).any()
    assert np.array_equal(after == free_here, truth == free_here)


def test_undo_goes_back_to_the_instance(viewer: Any, tab: Any, source: Path) -> None:
    press(viewer, "D")
    press(viewer, "A")
    press(viewer, "U")
    press(viewer, "U")
    assert viewer.layers[1].selected_label == 55
    assert open_review(source).decisions == []
    press(viewer, "U")
    assert tab.status.text() == "there is nothing left"


def test_labels_are_written_and_trained_on(
    viewer: Any, panel: Any, tab: Any, source: Path, truth: Any, tmp_path: Path
) -> None:
    press(viewer, "D")
    for _ in range(4):
        press(viewer, "A")
    tab.publish.native.click()
    wait(lambda: not tab.background.is_busy)
    assert tab.status.text().endswith("truth_reviewed is written")
    written = open_volume(source.with_name("truth_reviewed")).data.compute()
    assert np.array_equal(written, np.where(truth == 55, 0, truth))
    panel.training.epochs.value, out = 1, tmp_path / "mine.safetensors"
    panel.training.out.value = out
    tab.train.native.click()
    assert panel.training.background.is_busy, panel.training.status.text()
    wait(lambda: not panel.training.background.is_busy, 240)
    assert "is trained, 1 of 1 epochs" in panel.training.status.text()
    assert load_model(out).card["data"]["n_objects"] == 4
    assert panel.segmenting.model.value == str(out)


def test_of_a_series_the_timepoint_is_chosen(viewer: Any, panel: Any, tmp_path: Path) -> None:
    store, truth = tmp_path / "movie.ome.zarr", load_demo().truth[40:72, 20:84, 60:124]
    frames = np.stack([np.zeros_like(truth), truth]).astype(np.uint32)
    write_image(store, frames.astype(np.uint16) + 7, "tzyx", (1.0, 0.7, 0.7))
    pending = label_target(open_volume(store), "cells").create(np.uint32)
    for t, level in product(range(2), range(pending.n_levels)):
        for box in pending.regions(level):
            if level:
                pending.downsample(level, box, t)
            else:
                pending.write(0, box, frames[t][box.slices], t)
    pending.publish({})
    tab = panel.reviewing
    tab.labels.value, tab.timepoint.value = store / "labels" / "cells", 1
    tab.open.native.click()
    wait(lambda: not tab.background.is_busy)
    press(viewer, "D")
    assert len(open_review(store, timepoint=1).decisions) == 1
    assert open_review(store, timepoint=0).decisions == []


def test_nothing_happens_without_a_review(panel: Any) -> None:
    assert not any(button.enabled for button in panel.reviewing.buttons.values())
    for act in (
        panel.reviewing.accept,
        panel.reviewing.split,
        panel.reviewing.merge,
        panel.reviewing.undo,
        panel.reviewing.brush,
    ):
        act()
    assert panel.reviewing.status.text() == ""


@pytest.mark.parametrize("place", ["nowhere.ome.zarr/labels/a", "."])
def test_what_cannot_be_reviewed_is_said_in_one_line(
    panel: Any, tmp_path: Path, place: str
) -> None:
    panel.reviewing.labels.value = tmp_path / place
    panel.reviewing.open.native.click()
    wait(lambda: not panel.reviewing.background.is_busy)
    text = panel.reviewing.status.text()
    assert text
    assert "\n" not in text
    assert "unexpected" not in text
    assert panel.reviewing.review is None
