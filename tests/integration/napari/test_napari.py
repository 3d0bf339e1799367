"""The napari plugin in a window: what is clicked happens, and what is wrong is said in one line."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedseg_large.data import load_demo
from embedseg_large.methods.protocol import ObjectScale
from embedseg_large.methods.three_class import ThreeClass
from embedseg_large.network.backbones import new_network
from embedseg_large.network.checkpoint import load_model
from embedseg_large.network.model import Model
from embedseg_large.network.settings import Thresholds

if not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")):
    os.environ["QT_QPA_PLATFORM"] = "offscreen"  # without a screen Qt would end the process

WHY = "not installed: pip install 'embedseg-large[napari]' 'napari[pyqt6]' pytest-qt"
napari: Any = pytest.importorskip("napari", reason=WHY)
pytest.importorskip("qtpy.QtWidgets", reason=WHY)
pytest.importorskip("pytestqt", reason=WHY)

pytestmark = pytest.mark.filterwarnings("default")  # napari and its libraries have some

PLUGIN, WIDGET = "embedseg-large", "Segment and train"


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
    for tab in (panel.segmenting, panel.training):
        tab.background.cancel()
    tabs = (panel.segmenting, panel.training)
    wait(lambda: not any(tab.background.is_busy for tab in tabs))


@pytest.fixture(scope="module")
def crop() -> NDArray[np.uint16]:
    """A corner of the embryo with some nuclei: seconds on a CPU."""
    return load_demo().image[40:72, 20:84, 60:124]


def wait(until: Callable[[], bool], seconds: float = 60) -> None:
    """Let Qt work until something is so."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        QApplication.processEvents()
        time.sleep(0.01)


def segmented(tab: Any) -> Any:
    """Click Segment, and give the new layer."""
    before = len(tab._viewer.layers)
    tab.begin.native.click()
    assert tab.background.is_busy, tab.status.text()
    wait(lambda: not tab.background.is_busy)
    assert len(tab._viewer.layers) == before + 1, tab.status.text()
    return tab._viewer.layers[-1]


def test_the_manifest_is_valid_and_its_commands_can_be_imported() -> None:
    npe2 = pytest.importorskip("npe2")
    manifest = npe2.PluginManifest.from_distribution(PLUGIN)
    manifest.validate_imports()
    assert [w.display_name for w in manifest.contributions.widgets] == [WIDGET]


@pytest.mark.skipif(
    os.environ.get("QT_QPA_PLATFORM") == "offscreen",
    reason="a window of napari needs OpenGL: xvfb-run with QT_QPA_PLATFORM=xcb",
)
def test_the_panel_docks_into_a_window(make_napari_viewer: Any) -> None:
    viewer = make_napari_viewer()
    viewer.open_sample(PLUGIN, "blastocyst")
    panel = viewer.window.add_plugin_dock_widget(PLUGIN, WIDGET)[1]
    assert panel.segmenting.extent.text() == "118 x 137 x 135 voxels"


def test_the_sample_has_its_scale(viewer: Any) -> None:
    npe2 = pytest.importorskip("npe2")
    commands = npe2.PluginManifest.from_distribution(PLUGIN).contributions.commands
    open_sample = next(c for c in commands if "blastocyst" in c.id).python_name
    module, _, name = open_sample.partition(":")
    image, truth = (
        viewer._add_layer_from_data(*layer)[0] for layer in getattr(import_module(module), name)()
    )
    assert image.data.shape == truth.data.shape == (118, 137, 135)
    assert np.allclose(image.scale, truth.scale)
    assert np.allclose(image.scale, load_demo().voxel_size)


def test_a_layer_becomes_labels_that_lie_on_it(viewer: Any, panel: Any, crop: Any) -> None:
    image = viewer.add_image(crop, scale=(2, 0.5, 0.5), translate=(7, 0, 3), name="embryo")
    tab = panel.segmenting
    assert tab.image.value is image
    assert tab.model.value == "nuclei-3d"
    assert tab.extent.text() == "32 x 64 x 64 voxels"
    labels = segmented(tab)
    assert labels.name == "embryo nuclei-3d"
    assert labels.data.max() >= 3
    assert np.allclose(labels.extent.world, image.extent.world)
    assert tab.status.text().startswith(f"{labels.data.max()} found in")


def test_sliders_cluster_again_without_the_network(
    viewer: Any, panel: Any, crop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer.add_image(crop)
    tab = panel.segmenting
    labels = segmented(tab)
    first = labels.data.copy()
    monkeypatch.setattr("embedseg_large.network.model.Model.predict_raw", None)
    tab.foreground.value = 0.9
    wait(lambda: bool((labels.data > 0).sum() < (first > 0).sum()))
    tab.foreground.value = 0.5
    wait(lambda: np.array_equal(labels.data, first))
    tab.margin.value = 0.8
    wait(lambda: bool(0 < (labels.data > 0).sum() < (first > 0).sum()))
    assert len(viewer.layers) == 2


def test_thresholds_are_those_of_the_model_for_the_passes(panel: Any, tmp_path: Path) -> None:
    bundled = load_model("nuclei-3d")
    settings = bundled.settings.with_thresholds({"8": Thresholds(0.65, 0.35)})
    Model(bundled.weights, settings).save(tmp_path / "tuned.safetensors")
    tab = panel.segmenting
    tab.add_model(tmp_path / "tuned.safetensors")
    assert (tab.seed.value, tab.margin.value) == (bundled.seed, bundled.margin)
    tab.tta.value = "8"
    assert (tab.seed.value, tab.margin.value) == (0.65, 0.35)
    tab.tta.value = "none"
    assert (tab.seed.value, tab.margin.value) == (bundled.seed, bundled.margin)


def test_labels_edited_by_hand_are_left_alone(viewer: Any, panel: Any, crop: Any) -> None:
    viewer.add_image(crop)
    tab = panel.segmenting
    labels = segmented(tab)
    labels.paint((5, 5, 5), 99)
    painted = labels.data.copy()
    tab.seed.value = 0.95
    wait(lambda: "edited by hand" in tab.status.text())
    assert np.array_equal(labels.data, painted)


def test_a_drawn_rectangle_and_planes_limit_the_work(viewer: Any, panel: Any, crop: Any) -> None:
    image = viewer.add_image(crop, scale=(2, 0.5, 0.5))
    corners = np.array([[0, 8, 8], [0, 8, 24], [0, 28, 24], [0, 28, 8]], float)
    viewer.add_shapes([corners])
    tab = panel.segmenting
    tab.where.value, tab.first.value, tab.last.value = "drawn shapes", 4, 27
    assert tab.extent.text() == "24 x 41 x 33 voxels"
    labels = segmented(tab)
    assert labels.data.shape == (24, 41, 33)
    assert np.allclose(labels.data_to_world((0, 0, 0)), image.data_to_world((4, 16, 16)))


def test_of_a_movie_the_timepoint_that_is_shown_is_segmented(
    viewer: Any, panel: Any, crop: Any
) -> None:
    viewer.add_image(np.stack([np.zeros_like(crop), crop]))
    viewer.dims.set_current_step(0, 1)
    labels = segmented(panel.segmenting)
    assert labels.data.shape == (1, *crop.shape)
    assert labels.translate[0] == 1
    assert labels.data.any()


def test_the_level_that_is_shown_of_a_lazy_pyramid_is_segmented(
    viewer: Any, panel: Any, crop: Any
) -> None:
    import dask.array as da

    lazy = [da.from_array(crop, chunks=32), da.from_array(crop[:, ::2, ::2], chunks=16)]
    image = viewer.add_image(lazy, multiscale=True)
    image._data_level = 1  # as a canvas does that shows the coarsest
    panel.segmenting.describe()
    assert panel.segmenting.extent.text() == "level 1, 32 x 32 x 32 voxels"
    labels = segmented(panel.segmenting)
    assert np.allclose(labels.scale, (1, 2, 2))


def test_a_2d_image_takes_the_2d_model(viewer: Any, panel: Any, crop: Any) -> None:
    viewer.add_image(crop[16])
    tab = panel.segmenting
    assert tab.model.value == "nuclei-2d"
    assert segmented(tab).data.shape == crop.shape[1:]


def test_after_a_2d_image_the_3d_model_comes_back(viewer: Any, panel: Any, crop: Any) -> None:
    embryo = viewer.add_image(crop)
    plane = viewer.add_image(crop[16])
    tab = panel.segmenting
    tab.image.value = plane
    assert tab.model.value == "nuclei-2d"
    tab.image.value = embryo
    assert tab.model.value == "nuclei-3d"
    assert tab.extent.text() == "32 x 64 x 64 voxels"


def test_a_2d_model_that_the_user_has_chosen_stays(viewer: Any, panel: Any, crop: Any) -> None:
    embryo = viewer.add_image(crop)
    plane = viewer.add_image(crop[16])
    tab = panel.segmenting
    tab.image.value = embryo
    tab.model.value = "nuclei-2d"
    for layer in (plane, embryo):
        tab.image.value = layer
        assert tab.model.value == "nuclei-2d"


def test_what_cannot_be_segmented_is_said_in_one_line(viewer: Any, panel: Any) -> None:
    tab = panel.segmenting
    tab.begin.native.click()
    assert tab.status.text() == "there is no image layer; open an image"
    viewer.add_image(np.zeros((16, 16, 3), np.uint8), rgb=True, name="photo")
    tab.begin.native.click()
    assert tab.status.text().startswith("photo is an RGB image; split it")
    tab.model.value = "nuclei-3d"
    viewer.layers.clear()
    viewer.add_image(np.zeros((16, 16, 16)), name="black")
    tab.begin.native.click()
    wait(lambda: not tab.background.is_busy)
    assert "\n" not in tab.status.text()
    assert tab.status.text().startswith("black: no voxel holds data")
    assert tab.status.text().endswith("check the channel, the timepoint and the level")


def test_what_fails_on_the_way_is_said_in_words_of_the_panel(
    viewer: Any, panel: Any, crop: Any
) -> None:
    holed = crop.astype(np.float32)
    holed[5, 6, 7] = np.nan
    viewer.add_image(holed, name="holed", contrast_limits=(0, 1))
    tab = panel.segmenting
    tab.begin.native.click()
    wait(lambda: not tab.background.is_busy)
    assert "holed: voxel (5, 6, 7) is nan" in tab.status.text()
    assert tab.status.text().endswith("; then try again")


def test_a_file_that_is_no_model_is_said_and_not_offered(panel: Any, tmp_path: Path) -> None:
    tab, wrong = panel.segmenting, tmp_path / "wrong.safetensors"
    wrong.write_bytes(b"wrong")
    tab.file.value = wrong
    assert tab.status.text().startswith(f"{wrong}: ")
    assert str(wrong) not in tab.models()
    assert str(wrong) not in tab.model.choices
    assert tab.model.value == "nuclei-3d"
    assert tab.model.current_choice == "nuclei-3d (embedseg)"
    tab.model.value = "nuclei-2d"
    assert tab.model.current_choice == "nuclei-2d (embedseg)"
    assert tab.status.text() == ""


def test_a_file_that_does_not_exist_is_said(panel: Any, tmp_path: Path) -> None:
    panel.segmenting.file.value = tmp_path / "nope.safetensors"
    assert panel.segmenting.status.text().startswith("there is no file")
    assert "nope.safetensors" in panel.segmenting.status.text()
    panel.segmenting.file.value = None
    assert panel.segmenting.status.text() == ""


def test_the_file_of_a_model_is_offered_and_chosen(panel: Any, tmp_path: Path) -> None:
    tab, mine = panel.segmenting, tmp_path / "mine.safetensors"
    load_model("nuclei-2d").save(mine)
    tab.file.value = tmp_path / "nope.safetensors"
    tab.file.value = mine
    assert tab.model.value == str(mine)
    assert tab.status.text() == ""


def test_a_model_of_another_method_has_no_sliders_of_embedseg(panel: Any, tmp_path: Path) -> None:
    bundled, fields = load_model("nuclei-2d"), ThreeClass(ObjectScale(ndim=2, extent=(9, 9))).fields
    settings = replace(bundled.settings, method="three-class", backbone="unet", fields=fields)
    Model(new_network(settings).state_dict(), settings).save(tmp_path / "three.safetensors")
    tab = panel.segmenting
    tab.auto.value = True
    tab.add_model(tmp_path / "three.safetensors")
    assert tab.model.current_choice.endswith("three.safetensors (three-class)")
    assert tab.status.text() == "thresholds of three-class are set in training"
    sliders = (tab.seed, tab.foreground, tab.margin)
    assert all(slider.native.isHidden() for slider in sliders)
    assert not tab.size.native.isHidden()
    assert (tab.auto.value, tab.auto.enabled) == (False, False)
    tab.model.value = "nuclei-2d"
    assert tab.status.text() == ""
    assert not any(slider.native.isHidden() for slider in sliders)
    assert tab.auto.enabled


def test_cancel_ends_a_run_without_a_layer(viewer: Any, panel: Any, crop: Any) -> None:
    viewer.add_image(crop)
    tab = panel.segmenting
    tab.begin.native.click()
    assert tab.stop.enabled
    tab.stop.native.click()
    wait(lambda: not tab.background.is_busy)
    assert tab.status.text() == "cancelled"
    assert len(viewer.layers) == 1
    assert tab.begin.enabled


@pytest.fixture(scope="module")
def painted() -> NDArray[Any]:
    """Whole nuclei of the crop, from its plane 4 on."""
    truth = load_demo().truth
    painted = truth[44:68, 20:68, 60:108].copy()
    sizes, here = np.bincount(truth.ravel()), np.bincount(painted.ravel(), minlength=256)
    whole = [i for i in np.unique(painted) if here[i] == sizes[i]]
    painted[~np.isin(painted, whole)] = 0
    return painted


def test_a_model_is_trained_on_painted_labels_and_chosen(
    viewer: Any, panel: Any, crop: Any, painted: Any, tmp_path: Path
) -> None:
    viewer.add_image(crop)
    viewer.add_labels(painted, translate=(4, 0, 0))
    tab, out = panel.training, tmp_path / "mine.safetensors"
    tab.out.value, tab.epochs.value = out, 1
    tab.begin.native.click()
    assert tab.background.is_busy, tab.status.text()
    wait(lambda: not tab.background.is_busy, 120)
    assert "is trained, 1 of 1 epochs" in tab.status.text()
    assert panel.segmenting.model.value == str(out)
    assert load_model(out).fingerprint != load_model("nuclei-3d").fingerprint
    tab.begin.native.click()
    assert tab.status.text().endswith(
        "mine.safetensors exists; choose another name for the new model"
    )


def test_a_training_that_is_stopped_keeps_the_epochs_that_are_done(
    viewer: Any, panel: Any, crop: Any, painted: Any, tmp_path: Path
) -> None:
    viewer.add_image(crop)
    viewer.add_labels(painted, translate=(4, 0, 0))
    tab, out = panel.training, tmp_path / "mine.safetensors"
    tab.out.value, tab.epochs.value = out, 1000
    tab.begin.native.click()
    wait(lambda: "epoch 2/1000" in tab.status.text(), 120)
    tab.stop.native.click()
    wait(lambda: not tab.background.is_busy)
    assert " of 1000 epochs" in tab.status.text()
    assert panel.segmenting.model.value == str(out)
    tuned, start = load_model(out), load_model("nuclei-3d")
    assert tuned.fingerprint != start.fingerprint
    assert (tuned.context, tuned.seed) == (start.context, start.seed)


def test_a_training_that_is_stopped_at_once_leaves_no_file(
    viewer: Any, panel: Any, crop: Any, painted: Any, tmp_path: Path
) -> None:
    viewer.add_image(crop)
    viewer.add_labels(painted, translate=(4, 0, 0))
    tab, out = panel.training, tmp_path / "mine.safetensors"
    tab.out.value = out
    tab.begin.native.click()
    tab.stop.native.click()
    wait(lambda: not tab.background.is_busy)
    assert tab.status.text() == "cancelled"
    assert not out.exists()


def test_training_without_labels_is_refused(viewer: Any, panel: Any, crop: Any) -> None:
    viewer.add_image(crop)
    panel.training.begin.native.click()
    assert panel.training.status.text().startswith("training needs an image layer and a labels")
