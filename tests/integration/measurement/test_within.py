"""Parents of instances, and tables for scanpy and SpatialData."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import embedseg_large as es
from embedseg_large.cli.app import app
from embedseg_large.conversion.plan import write_image
from embedseg_large.errors import UsageError, VolumeError
from embedseg_large.labels.target import label_target
from embedseg_large.runs import boxes
from embedseg_large.testing.synthetic import synthetic_embryo

Labels = NDArray[Any]
SIZE = (2.0, 0.5, 0.25)


@pytest.fixture(scope="module")
def nuclei() -> Labels:
    return synthetic_embryo((20, 40, 44), n_objects=25, diameter=8, seed=2).astype(np.uint16)


@pytest.fixture(scope="module")
def tissues() -> Labels:
    """Slices along x, with a gap that is none."""
    x = np.arange(44)
    slices = np.select([x < 15, x < 20, x < 30], [7, 0, 3], 900)
    return np.broadcast_to(slices, (20, 40, 44)).astype(np.uint32).copy()


def by_hand(label: int, nuclei: Labels, tissues: Labels) -> tuple[int, float]:
    """Parent and overlap of one instance."""
    inside = tissues[nuclei == label]
    ids, counts = np.unique(inside[inside > 0], return_counts=True)
    if not ids.size:
        return 0, 0.0
    return int(ids[counts.argmax()]), counts.max() / inside.size


def publish(store: Path, name: str, labels: Labels) -> None:
    pending = label_target(es.open_volume(store), name).create(labels.dtype)
    for box in pending.regions(0):
        pending.write(0, box, labels[box.slices])
    for level in range(1, pending.n_levels):
        for box in pending.regions(level):
            pending.downsample(level, box)
    pending.publish({})


@pytest.mark.parametrize("edge", [7, 256])
def test_the_parent_is_the_instance_that_holds_most_voxels(
    nuclei: Labels, tissues: Labels, monkeypatch: pytest.MonkeyPatch, edge: int
) -> None:
    monkeypatch.setitem(boxes.EDGE, 3, edge)
    table = es.measure(nuclei, within=tissues)
    expected = [by_hand(label, nuclei, tissues) for label in table["label"]]
    assert len({parent for parent, _ in expected}) == 3
    np.testing.assert_array_equal(table["parent"], [parent for parent, _ in expected])
    np.testing.assert_allclose(table["parent_overlap"], [overlap for _, overlap in expected])


def test_of_two_that_hold_as_many_the_smaller_label_is_the_parent() -> None:
    nucleus, cells = np.zeros((2, 6, 6), np.uint8)
    nucleus[2:4, 2:4] = 1
    cells[:, :3], cells[:, 3:] = 9, 4
    table = es.measure(nucleus, within=cells)
    assert (table["parent"][0], table["parent_overlap"][0]) == (4, 0.5)


def test_an_instance_that_meets_none_has_the_parent_0() -> None:
    nucleus, cells = np.zeros((2, 6, 6), np.uint8)
    nucleus[2:4, 2:4], cells[5] = 1, 3
    table = es.measure(nucleus, within=cells)
    assert (table["parent"][0], table["parent_overlap"][0]) == (0, 0.0)


@pytest.mark.parametrize("name", ["cells", "labels/cells", "path"])
def test_parents_are_found_in_the_same_store(
    tmp_path: Path, nuclei: Labels, tissues: Labels, name: str
) -> None:
    store = tmp_path / "a.ome.zarr"
    write_image(store, nuclei, "zyx", SIZE)
    publish(store, "nuclei", nuclei)
    publish(store, "cells", tissues)
    asked = f"{store}/labels/cells" if name == "path" else name
    out = tmp_path / "nuclei.csv"
    words = ["measure", str(store), "--labels", "nuclei", "--within", asked, "--out", str(out)]
    run = CliRunner().invoke(app, words)
    assert run.exit_code == 0, run.output
    head = out.read_text().splitlines()[0].split(",")
    assert {"parent", "parent_overlap"} <= set(head)


@pytest.mark.parametrize(
    ("parents", "said"),
    [
        (np.zeros((20, 40, 45), np.uint8), "labels of the same image"),
        (np.zeros((20, 40, 44), np.float32), "labels are integers"),
    ],
)
def test_what_cannot_be_parents_is_refused(nuclei: Labels, parents: Any, said: str) -> None:
    with pytest.raises(VolumeError, match=said):
        es.measure(nuclei, within=parents)


def test_instances_have_no_parents_among_themselves(nuclei: Labels) -> None:
    with pytest.raises(UsageError, match="cannot be measured within themselves"):
        es.measure(nuclei, within=nuclei)


@pytest.mark.parametrize("form", ["labels/../labels/nuclei/", "file", "link", "relative"])
def test_the_measured_labels_are_recognised_in_any_form(
    tmp_path: Path, nuclei: Labels, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "a.ome.zarr"
    write_image(store, nuclei, "zyx", SIZE)
    publish(store, "nuclei", nuclei)
    (tmp_path / "link").symlink_to(store / "labels" / "nuclei")
    monkeypatch.chdir(tmp_path)
    forms = {
        "file": f"file://{store}/labels/nuclei",
        "link": str(tmp_path / "link"),
        "relative": "a.ome.zarr/labels/nuclei",
    }
    with pytest.raises(UsageError, match="cannot be measured within themselves"):
        es.measure(store, "nuclei", within=forms.get(form, f"{store}/{form}"))


def test_labels_of_one_plane_have_parents_of_one_plane(
    tmp_path: Path, nuclei: Labels, tissues: Labels
) -> None:
    store = tmp_path / "a.ome.zarr"
    write_image(store, nuclei[10:11], "zyx", SIZE)
    publish(store, "nuclei", nuclei[10:11])
    publish(store, "cells", tissues[10:11])
    table = es.measure(store, "nuclei", within="cells")
    expected = [by_hand(label, nuclei[10], tissues[10]) for label in table["label"]]
    np.testing.assert_array_equal(table["parent"], [parent for parent, _ in expected])
    assert table["parent"].any()
    flat = es.measure(store, "nuclei", within=tissues[10])
    np.testing.assert_array_equal(flat["parent"], table["parent"])


def test_anndata_has_features_positions_and_the_words_of_spatialdata(
    tmp_path: Path, nuclei: Labels, tissues: Labels
) -> None:
    table = es.measure(nuclei, image=nuclei * 3, voxel_size=SIZE, within=tissues)
    table.to_h5ad(tmp_path / "a.h5ad")
    read = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert list(read.obs_names) == [str(label) for label in table["label"]]
    assert {"volume_um3", "sphericity", "intensity_mean_0", "parent_overlap"} <= set(read.var_names)
    assert not {"label", "timepoint", "parent", "x", "z_um", "y_start"} & set(read.var_names)
    np.testing.assert_allclose(
        read[:, "volume_um3"].X.ravel(), table["volume_um3"].astype(np.float32)
    )
    at = np.stack([table[f"{axis}_um"] for axis in "xyz"], axis=1)
    np.testing.assert_array_equal(read.obsm["spatial"], at)
    attributes = read.uns["spatialdata_attrs"]
    assert set(read.obs[attributes["region_key"]]) == {attributes["region"]}
    np.testing.assert_array_equal(read.obs[attributes["instance_key"]], table["label"])
    np.testing.assert_array_equal(read.obs["parent"], table["parent"])


def test_anndata_of_a_series_has_unique_names(nuclei: Labels) -> None:
    series = np.stack([nuclei, nuclei])
    names = es.measure(series, axes="tzyx").to_anndata().obs_names
    assert names.is_unique


def test_the_table_of_labels_in_a_store_names_them(tmp_path: Path, nuclei: Labels) -> None:
    write_image(tmp_path / "a.ome.zarr", nuclei)
    publish(tmp_path / "a.ome.zarr", "nuclei", nuclei)
    words = ["measure", str(tmp_path / "a.ome.zarr"), "--out", str(tmp_path / "a.h5ad")]
    assert CliRunner().invoke(app, words).exit_code == 0
    attributes = anndata.read_h5ad(tmp_path / "a.h5ad").uns["spatialdata_attrs"]
    assert attributes["region"] == "nuclei"


def test_an_absent_anndata_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "anndata", None)
    words = ["measure", str(tmp_path / "nowhere.tif"), "--out", str(tmp_path / "a.h5ad")]
    run = CliRunner().invoke(app, words)
    assert run.exit_code == 2
    assert 'pip install "embedseg-large[anndata]"' in run.stderr
