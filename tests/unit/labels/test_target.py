from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import yaozarrs
import zarr
from numpy.typing import NDArray

from embedseg_large.conversion.plan import write_image
from embedseg_large.data import copy_demo
from embedseg_large.errors import LabelsExistError, OutputError, RunError, UsageError
from embedseg_large.geometry import Box
from embedseg_large.labels.pending import LabelTarget, PendingLabels
from embedseg_large.labels.tables import write_label_table
from embedseg_large.labels.target import label_target
from embedseg_large.storage import disk
from embedseg_large.storage.group import ZarrGroup
from embedseg_large.volumes.volume import Volume, open_volume

VERSIONS = ["0.4", "0.5", "0.6"]

CheckNGFF = Callable[[Path, str], None]
SHAPE = (20, 300, 60)


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def image(tmp_path: Path, version: str) -> Path:
    """A 3D image of two levels."""
    place = tmp_path / "embryo.ome.zarr"
    write_image(place, np.ones(SHAPE, np.uint8), "zyx", (2.0, 0.5, 0.5), version)
    return place


def labels_like(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.uint32]:
    return np.random.default_rng(seed).integers(0, 100_000, shape, dtype=np.uint32)


def fill(pending: PendingLabels, labels: NDArray[Any], timepoint: int | None = None) -> None:
    for level in range(pending.n_levels):
        for box in pending.regions(level):
            if level == 0:
                pending.write(level, box, labels[box.slices], timepoint)
            else:
                pending.downsample(level, box, timepoint)


def write_labels(target: LabelTarget, seed: int = 0, **provenance: Any) -> NDArray[np.uint32]:
    labels = labels_like(target.levels[0].shape, seed)
    pending = target.create(np.uint32)
    fill(pending, labels)
    pending.publish({"token": "0"} | provenance)
    return labels


def write_foreign(image: Path, name: str) -> None:
    """Labels as another tool leaves them: published by us, then without our mark."""
    write_labels(label_target(open_volume(image), name), seed=9)
    group = zarr.open_group(str(image / "labels" / name), mode="r+")
    del group.attrs["embedseg_large"]


def stored(image: Path, name: str, level: int = 0) -> NDArray[Any]:
    return open_volume(image / "labels" / name, level=level).read(
        Box.whole(open_volume(image / "labels" / name, level=level).spatial_shape)
    )


def names_listed(image: Path) -> list[str]:
    attributes = dict(zarr.open_group(str(image / "labels"), mode="r").attrs)
    content: Any = attributes.get("ome", attributes)
    return list(content["labels"])


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def fail(*_: Any) -> NoReturn:
    raise OSError(errno.EIO, "Input/output error")


def fails_at(call: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, but its n-th call fails."""
    calls = iter(range(1, 1000))

    def wrapped(*args: Any) -> Any:
        return fail() if next(calls) == call else function(*args)

    return wrapped


# Where labels go ------------------------------------------------------------------------------


def test_labels_go_into_the_image(image: Path, version: str) -> None:
    target = label_target(open_volume(image), "nuclei")
    assert target.path == str(image / "labels" / "nuclei")
    assert (target.ngff_version, target.in_image) == (version, True)
    assert pickle.loads(pickle.dumps(target)) == target


def test_finding_the_place_leaves_no_trace(image: Path) -> None:
    before = files_of(image)
    label_target(open_volume(image), "nuclei")
    assert files_of(image) == before
    assert not (image / "labels").exists()


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "__a", "a\\b", "a\n", "zarr.json"])
def test_names_that_are_no_folder_names_are_refused(name: str, tmp_path: Path) -> None:
    volume = open_volume(np.zeros((8, 8)))
    with pytest.raises(UsageError, match="cannot name labels"):
        label_target(volume, name, output=tmp_path / "out")


def test_arrays_and_other_formats_need_an_output(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--output"):
        label_target(open_volume(np.zeros((8, 8))), "nuclei")
    zarr.create_array(str(tmp_path / "plain.zarr"), data=np.zeros((8, 8), np.uint8))
    with pytest.raises(UsageError, match="--output"):
        label_target(open_volume(tmp_path / "plain.zarr"), "nuclei")


def test_old_stores_need_an_output(tmp_path: Path) -> None:
    write_image(tmp_path / "old.zarr", np.zeros((8, 8), np.uint8), ngff_version="0.4")
    group = zarr.open_group(str(tmp_path / "old.zarr"), mode="r+")
    multiscales: Any = group.attrs["multiscales"]
    multiscales[0] = {**multiscales[0], "version": "0.3", "axes": ["y", "x"]}
    group.attrs["multiscales"] = multiscales
    volume = open_volume(tmp_path / "old.zarr")
    with pytest.raises(UsageError, match=r"NGFF 0\.3.*--output"):
        label_target(volume, "nuclei")
    assert label_target(volume, "nuclei", output=tmp_path / "out").ngff_version == "0.5"


def test_web_servers_are_not_written_to() -> None:
    volume = open_volume(np.zeros((8, 8)))
    with pytest.raises(OutputError, match=r"https://host/out.zarr: web servers are read only"):
        label_target(volume, "nuclei", output="https://user:pw@host/out.zarr?signature=secret")


def test_a_read_only_image_is_refused_before_the_run(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = open_volume(image)
    monkeypatch.setattr(Path, "touch", lambda *_, **__: os.open("/dev/null/x", os.O_RDONLY))
    with pytest.raises(OutputError, match=r"embryo\.ome\.zarr"):
        label_target(volume, "nuclei")


def test_a_new_output_becomes_a_group(tmp_path: Path, version: str) -> None:
    out = tmp_path / "deep" / "out.zarr"
    volume = open_volume(np.zeros((8, 300)), voxel_size=(1.0, 1.0))
    target = label_target(volume, "nuclei", output=out, ngff_version=version)
    assert not out.exists()
    labels = write_labels(target)
    assert np.array_equal(stored(out, "nuclei"), labels)
    assert open_volume(out / "labels" / "nuclei").ngff_version == version
    if version != "0.6":
        yaozarrs.validate_zarr_store(str(out / "labels" / "nuclei"))
    content: Any = dict(zarr.open_group(target.path, mode="r").attrs)
    about = content.get("ome", content)["image-label"]
    assert "source" not in about  # nothing lies at ../../


def test_an_output_that_is_there_keeps_its_version(tmp_path: Path, version: str) -> None:
    write_image(tmp_path / "other.zarr", np.zeros((8, 8), np.uint8), ngff_version=version)
    volume = open_volume(np.zeros((8, 8)))
    target = label_target(volume, "nuclei", output=tmp_path / "other.zarr")
    assert (target.ngff_version, target.in_image) == (version, False)
    other = VERSIONS[version == "0.4"]
    with pytest.raises(UsageError, match=f"is NGFF {version}"):
        label_target(volume, "nuclei", output=tmp_path / "other.zarr", ngff_version=other)


def test_labels_of_an_image_of_0_6_share_its_version_and_systems(
    tmp_path: Path, check_ngff: CheckNGFF
) -> None:
    place = tmp_path / "embryo.ome.zarr"
    write_image(place, np.ones((2, 4, 8, 8), np.uint8), "czyx", (2.0, 0.5, 0.5), "0.6")
    document = json.loads((place / "zarr.json").read_text())
    multiscale = document["attributes"]["ome"]["multiscales"][0]
    own = multiscale["coordinateSystems"][0]
    turn = {
        "type": "affine",
        "affine": [[1, 0, 0, 0, 0], [0, 1, 0, 0, 5], [0, 0, 0, 1, 6], [0, 0, 1, 0, 7]],
        "input": {"name": own["name"]},
        "output": {"name": "stage"},
    }
    multiscale["coordinateSystems"].append({"name": "stage", "axes": own["axes"]})
    multiscale["coordinateTransformations"] = [turn]
    (place / "zarr.json").write_text(json.dumps(document))

    write_labels(label_target(open_volume(place), "nuclei"))

    check_ngff(place, "0.6")
    made = json.loads((place / "labels" / "nuclei" / "zarr.json").read_text())
    labels = made["attributes"]["ome"]["multiscales"][0]
    axes = own["axes"][1:]
    assert labels["coordinateSystems"] == [
        {"name": own["name"], "axes": axes},
        {"name": "stage", "axes": axes},
    ]
    (repeated,) = labels["coordinateTransformations"]
    assert repeated == turn | {"affine": [[1, 0, 0, 5], [0, 0, 1, 6], [0, 1, 0, 7]]}
    assert open_volume(place / "labels" / "nuclei").voxel_size == (2.0, 0.5, 0.5)


def test_elsewhere_labels_of_an_image_of_0_6_are_0_6_and_stay_so(tmp_path: Path) -> None:
    write_image(tmp_path / "image.zarr", np.ones((8, 8), np.uint8), "yx", (1, 1), "0.6")
    volume, out = open_volume(tmp_path / "image.zarr"), tmp_path / "out.zarr"
    write_labels(label_target(volume, "nuclei", output=out))
    array = open_volume(np.zeros((8, 8)))
    assert label_target(array, "cells", output=out).ngff_version == "0.6"
    with pytest.raises(UsageError, match=r"is NGFF 0\.6, so labels in it cannot be 0\.5"):
        label_target(array, "cells", output=out, ngff_version="0.5")


def test_a_pre_release_is_read_and_not_written_into(tmp_path: Path) -> None:
    write_image(tmp_path / "image.zarr", np.ones((8, 8), np.uint8), "yx", (1, 1), "0.6")
    file = tmp_path / "image.zarr" / "zarr.json"
    file.write_text(file.read_text().replace('"0.6"', '"0.6.dev4"'))
    volume = open_volume(tmp_path / "image.zarr")
    assert (volume.ngff_version, volume.voxel_size) == ("0.6.dev4", (1.0, 1.0))
    with pytest.raises(UsageError, match=r"NGFF 0\.6\.dev4 in zarr 3.*--output"):
        label_target(volume, "nuclei")


def test_an_output_that_is_no_group_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").touch()
    for output in (tmp_path / "thesis", tmp_path / "thesis" / "chapter1.txt"):
        with pytest.raises(UsageError, match="not a zarr group"):
            label_target(open_volume(np.zeros((8, 8))), "nuclei", output=output)


def test_floats_are_no_labels(image: Path) -> None:
    with pytest.raises(UsageError, match="integers"):
        label_target(open_volume(image), "nuclei").create(np.float32)


# What is written ------------------------------------------------------------------------------


def test_labels_and_their_levels_are_read_back(
    image: Path, version: str, check_ngff: CheckNGFF
) -> None:
    labels = write_labels(label_target(open_volume(image), "nuclei"))
    assert np.array_equal(stored(image, "nuclei"), labels)
    assert np.array_equal(stored(image, "nuclei", level=1), labels[:, ::2, :])
    check_ngff(image, version)
    volume = open_volume(image / "labels" / "nuclei")
    assert volume.is_labels
    assert volume.voxel_size == (2.0, 0.5, 0.5)
    assert [k.shape for k in volume.levels] == [k.shape for k in open_volume(image).levels]


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ("yx", (300, 40)),
        ("tyx", (2, 40, 300)),
        ("czyx", (2, 4, 20, 300)),
        ("tczyx", (2, 2, 4, 300, 20)),
    ],
)
def test_labels_have_the_axes_of_the_image_without_channels(
    tmp_path: Path, version: str, axes: str, shape: tuple[int, ...], check_ngff: CheckNGFF
) -> None:
    place = tmp_path / "image.zarr"
    write_image(place, np.zeros(shape, np.uint8), axes, ngff_version=version)
    volume = open_volume(place, channel=1 if "c" in axes else 0)
    pending = label_target(volume, "cells").create(np.uint16)
    labels = labels_like(volume.shape).astype(np.uint16)
    for timepoint in range(volume.n_timepoints):
        fill(pending, labels[timepoint] if "t" in axes else labels, timepoint)
    pending.publish({})
    check_ngff(place, version)
    opened = open_volume(place / "labels" / "cells")
    assert opened.axes == axes.replace("c", "")
    assert np.array_equal(opened.data.compute(), labels)


def test_timepoints_that_are_not_processed_are_background(tmp_path: Path) -> None:
    write_image(tmp_path / "movie.zarr", np.zeros((3, 8, 8), np.uint8), "tyx")
    volume = open_volume(tmp_path / "movie.zarr", timepoint=1)
    pending = label_target(volume, "cells").create(np.uint8)
    fill(pending, np.ones((8, 8), np.uint8), timepoint=1)
    pending.publish({})
    cells = open_volume(tmp_path / "movie.zarr" / "labels" / "cells").data.compute()
    assert cells.sum(axis=(1, 2)).tolist() == [0, 64, 0]
    with pytest.raises(UsageError, match="timepoint 3"):
        pending.write(0, Box.whole((8, 8)), np.ones((8, 8), np.uint8), timepoint=3)
    with pytest.raises(UsageError, match="timepoint None"):
        pending.write(0, Box.whole((8, 8)), np.ones((8, 8), np.uint8))


def test_the_first_level_is_the_one_that_was_segmented(
    image: Path, version: str, check_ngff: CheckNGFF
) -> None:
    volume = open_volume(image, level=1)
    labels = write_labels(label_target(volume, "nuclei"))
    assert labels.shape == (20, 150, 60)
    check_ngff(image, version)  # NGFF wants as many levels as the image has
    opened = open_volume(image / "labels" / "nuclei")
    assert opened.voxel_size == volume.voxel_size == (2.0, 1.0, 0.5)
    assert [level.shape for level in opened.levels] == [(20, 150, 60), (10, 75, 30)]


def test_positions_of_the_image_are_kept(tmp_path: Path, version: str) -> None:
    place = tmp_path / "tile.zarr"
    write_image(place, np.zeros((8, 300), np.uint8), "yx", (500.0, 500.0), version)
    group = zarr.open_group(str(place), mode="r+")
    attributes: Any = dict(group.attrs)
    multiscale = attributes.get("ome", attributes)["multiscales"][0]
    systems = multiscale.get("coordinateSystems", [multiscale])
    for axis in systems[0]["axes"]:
        axis["unit"] = "nanometer"
    for dataset in multiscale["datasets"]:
        shift = {"type": "translation", "translation": [3000.0, 7000.0]}
        steps = dataset["coordinateTransformations"]
        if version == "0.6":
            (scale,) = steps
            ends = {end: scale.pop(end) for end in ("input", "output")}
            steps[:] = [{"type": "sequence", "transformations": [scale, shift], **ends}]
        else:
            steps[1:] = [shift]
    group.attrs.update(attributes)
    write_labels(label_target(open_volume(place), "cells"))
    level = open_volume(place / "labels" / "cells").levels[0]
    assert level.scale == pytest.approx((500.0, 500.0))  # nanometres, as stored
    assert level.translation == pytest.approx((3000.0, 7000.0))


def test_volumes_without_levels_get_some(tmp_path: Path) -> None:
    target = label_target(open_volume(np.zeros((50, 70, 600))), "a", output=tmp_path / "o.zarr")
    assert [level.shape for level in target.levels] == [(50, 70, 600), (50, 35, 300), (50, 35, 150)]
    assert target.levels[-1].scale == (1.0, 2.0, 4.0)
    assert target.units == (None, None, None)


def test_provenance_is_kept_outside_the_standard_metadata(image: Path) -> None:
    write_labels(label_target(open_volume(image), "nuclei"), model="m", seams={"joined": 0})
    attributes = ZarrGroup.at(image / "labels" / "nuclei").attributes()
    made = {"token": "0", "model": "m", "seams": {"joined": 0}}
    stored = dict(attributes["embedseg_large"])
    assert abs(stored.pop("published") - time.time()) < 60
    assert stored == made


def test_a_label_that_does_not_fit_is_an_error(image: Path) -> None:
    pending = label_target(open_volume(image), "nuclei").create(np.uint8)
    with pytest.raises(RunError, match="256"):
        pending.write(0, next(pending.regions(0)), np.full((20, 256, 60), 256))


def test_tasks_reopen_the_labels_by_path(image: Path) -> None:
    pending = pickle.loads(pickle.dumps(label_target(open_volume(image), "a").create(np.uint32)))
    box = next(pending.regions(0))
    pending.write(0, box, labels_like(box.shape))
    assert np.array_equal(pending.read(0, box), labels_like(box.shape))


# Publishing -----------------------------------------------------------------------------------


def test_labels_are_invisible_until_they_are_published(image: Path) -> None:
    target = label_target(open_volume(image), "nuclei")
    pending = target.create(np.uint32)
    assert not Path(target.path).exists()
    assert str(Path(pending.path).parent) == target.folder
    pending.publish({})
    assert [p.name for p in Path(target.folder).iterdir() if p.is_dir()] == ["nuclei"]


def test_a_discarded_run_leaves_the_image_as_it_was(image: Path) -> None:
    before = files_of(image)
    pending = label_target(open_volume(image), "nuclei").create(np.uint32)
    fill(pending, labels_like(SHAPE))
    pending.discard()
    assert files_of(image) == before
    assert not (image / "labels").exists()
    pending.discard()  # twice is no error


def test_a_run_with_the_same_token_goes_on_where_it_was(image: Path) -> None:
    target = label_target(open_volume(image), "nuclei")
    box = next(target.pending(np.uint32).regions(0))
    target.create(np.uint32, run="token").write(0, box, labels_like(box.shape))
    again = target.create(np.uint32, run="token")
    assert np.array_equal(again.read(0, box), labels_like(box.shape))
    assert target.create(np.uint32, run="other").path != again.path


def test_a_run_that_cannot_go_on_keeps_what_it_had(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = label_target(open_volume(image), "nuclei")
    box = next(target.pending(np.uint32).regions(0))
    first = target.create(np.uint32, run="token")
    first.write(0, box, labels_like(box.shape))
    with monkeypatch.context() as patch:
        patch.setattr("embedseg_large.volumes.multiscale.MultiscaleStore.create", fail)
        with pytest.raises(OSError, match="Input/output error"):
            target.create(np.uint32, run="token")
    assert np.array_equal(first.read(0, box), labels_like(box.shape))


def test_several_labels_live_side_by_side(image: Path, version: str, check_ngff: CheckNGFF) -> None:
    for name in ("nuclei", "cells"):
        write_labels(label_target(open_volume(image), name))
    assert names_listed(image) == ["nuclei", "cells"]
    check_ngff(image, version)


def test_runs_that_publish_at_once_are_all_listed(
    image: Path, version: str, check_ngff: CheckNGFF
) -> None:
    names = [f"run{number}" for number in range(8)]
    pending = [label_target(open_volume(image), name).create(np.uint8) for name in names]
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda labels: labels.publish({}), pending))
    assert sorted(names_listed(image)) == names
    check_ngff(image, version)


def test_a_name_that_is_taken_is_refused(image: Path) -> None:
    before = write_labels(label_target(open_volume(image), "nuclei"))
    with pytest.raises(LabelsExistError, match="overwrite"):
        label_target(open_volume(image), "nuclei")
    assert np.array_equal(stored(image, "nuclei"), before)


def test_a_name_that_was_taken_meanwhile_is_refused(image: Path) -> None:
    targets = [label_target(open_volume(image), "nuclei") for _ in range(2)]
    before = write_labels(targets[0], seed=1)
    with pytest.raises(LabelsExistError):
        write_labels(targets[1], seed=2)
    assert np.array_equal(stored(image, "nuclei"), before)


def test_own_labels_are_replaced(image: Path, version: str, check_ngff: CheckNGFF) -> None:
    write_labels(label_target(open_volume(image), "nuclei"), seed=1)
    labels = write_labels(label_target(open_volume(image), "nuclei", overwrite=True), seed=2)
    assert np.array_equal(stored(image, "nuclei"), labels)
    assert sorted(p.name for p in (image / "labels").iterdir() if p.is_dir()) == ["nuclei"]
    check_ngff(image, version)


def test_labels_of_others_are_kept_beside_the_new_ones(
    image: Path, version: str, check_ngff: CheckNGFF
) -> None:
    write_foreign(image, "nuclei")
    theirs = stored(image, "nuclei")
    write_labels(label_target(open_volume(image), "nuclei", overwrite=True), seed=2)
    assert np.array_equal(stored(image, "nuclei.bak"), theirs)
    write_labels(label_target(open_volume(image), "nuclei", overwrite=True), seed=3)
    assert names_listed(image) == ["nuclei", "nuclei.bak"]
    check_ngff(image, version)


def test_labels_of_a_run_that_somebody_painted_in_are_kept(
    image: Path, version: str, check_ngff: CheckNGFF
) -> None:
    write_labels(label_target(open_volume(image), "nuclei"), seed=1)
    array = zarr.open_array(str(image / "labels" / "nuclei" / "0"), mode="r+")
    array[...] = 7
    later = time.time() + 60
    for path in (image / "labels" / "nuclei" / "0").rglob("*"):
        os.utime(path, (later, later))
    write_labels(label_target(open_volume(image), "nuclei", overwrite=True), seed=2)
    assert (stored(image, "nuclei.bak") == 7).all()
    check_ngff(image, version)


def moved_back(labels: Path, seconds: float) -> None:
    """Make the time of labels, and of their publication, that of some time ago."""
    attributes = ZarrGroup.at(labels).attributes()
    attributes["embedseg_large"]["published"] -= seconds
    ZarrGroup.at(labels).write(3 if "ome" in attributes else 2, attributes)
    for path in labels.rglob("*"):
        os.utime(path, (time.time() - seconds,) * 2)


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("is_painted", [False, True])
def test_measurements_do_not_hide_what_was_painted(
    image: Path, is_painted: bool, is_old: bool
) -> None:
    write_labels(label_target(open_volume(image), "nuclei"), seed=1)
    labels = image / "labels" / "nuclei"
    moved_back(labels, 1000)
    if is_old:  # of a version that recorded no time
        attributes = ZarrGroup.at(labels).attributes()
        del attributes["embedseg_large"]["published"]
        ZarrGroup.at(labels).write(3 if "ome" in attributes else 2, attributes)
        for file in labels.glob("*"):
            os.utime(file, (time.time() - 1000,) * 2)
    if is_painted:
        zarr.open_array(str(labels / "0"), mode="r+")[...] = 7
    columns = {"label": np.arange(1, 4), "timepoint": np.zeros(3, np.int64)}
    for _ in range(2):
        write_label_table(str(image), "nuclei", columns, ["label"])
    assert max(p.stat().st_mtime for p in labels.iterdir() if p.is_file()) > time.time() - 100
    write_labels(label_target(open_volume(image), "nuclei", overwrite=True), seed=2)
    assert names_listed(image) == ["nuclei", *(["nuclei.bak"] if is_painted else [])]


def test_labels_copied_without_their_times_are_kept(image: Path) -> None:
    write_labels(label_target(open_volume(image), "nuclei"), seed=1)
    labels = image / "labels" / "nuclei"
    moved_back(labels, 1000)
    for path in labels.rglob("*"):
        os.utime(path)
    write_labels(label_target(open_volume(image), "nuclei", overwrite=True), seed=2)
    assert names_listed(image) == ["nuclei", "nuclei.bak"]


def test_what_another_run_left_half_written_is_removed(image: Path) -> None:
    label_target(open_volume(image), "nuclei").create(np.uint32, run="0a1b2c3d")
    label_target(open_volume(image), "nuclei.bak").create(np.uint32, run="0a1b2c3d")
    write_labels(label_target(open_volume(image), "nuclei"), seed=2)
    left = [p.name for p in (image / "labels").iterdir() if "-" in p.name]
    assert [name.rpartition("-")[0] for name in left] == [".nuclei.bak"]


def test_damaged_labels_are_kept_and_do_not_stop_new_ones(image: Path) -> None:
    write_labels(label_target(open_volume(image), "nuclei"), seed=1)
    shutil.rmtree(image / "labels" / "nuclei" / "0")
    write_labels(label_target(open_volume(image), "nuclei", overwrite=True), seed=2)
    assert names_listed(image) == ["nuclei", "nuclei.bak"]
    assert not (image / "labels" / "nuclei.bak" / "0").exists()


def test_the_lock_is_not_held_while_older_labels_are_removed(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_labels(label_target(open_volume(image), "nuclei"), seed=1)
    other = label_target(open_volume(image), "others")
    seen: list[Any] = []
    remove = shutil.rmtree

    def slowly(path: Any, *more: Any, **options: Any) -> None:
        if not seen:
            seen.append(path)
            write_labels(other, seed=3)
        remove(path, *more, **options)

    monkeypatch.setattr(shutil, "rmtree", slowly)
    monkeypatch.setattr(disk, "LOCK_SECONDS", 1.0)
    write_labels(label_target(open_volume(image), "nuclei", overwrite=True), seed=2)
    assert seen[0].endswith(".gone")
    assert names_listed(image) == ["nuclei", "others"]


def test_the_true_labels_of_the_demo_are_kept(tmp_path: Path) -> None:
    demo = copy_demo(tmp_path / "demo.ome.zarr")
    truth = stored(demo.image, "truth")
    label_target(open_volume(demo.image), "truth", overwrite=True).create(np.uint32).publish({})
    assert np.array_equal(stored(demo.image, "truth.bak"), truth)


def test_an_older_copy_is_not_overwritten(image: Path) -> None:
    write_foreign(image, "nuclei.bak")
    write_foreign(image, "nuclei")
    write_labels(label_target(open_volume(image), "nuclei", overwrite=True))
    assert names_listed(image) == ["nuclei.bak", "nuclei", "nuclei.bak1"]


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("are_ours", [True, False])
def test_a_rename_that_fails_leaves_the_older_labels(
    image: Path,
    version: str,
    call: int,
    are_ours: bool,
    monkeypatch: pytest.MonkeyPatch,
    check_ngff: CheckNGFF,
) -> None:
    if are_ours:
        write_labels(label_target(open_volume(image), "nuclei"), seed=1)
    else:
        write_foreign(image, "nuclei")
    before = files_of(image / "labels" / "nuclei")
    target = label_target(open_volume(image), "nuclei", overwrite=True)
    pending = target.create(np.uint32)
    with monkeypatch.context() as patch:
        patch.setattr("os.rename", fails_at(call, os.rename))
        with pytest.raises(OutputError, match="Input/output error"):
            pending.publish({})
    assert files_of(image / "labels" / "nuclei") == before
    pending.discard()
    assert [p.name for p in Path(target.folder).iterdir() if p.is_dir()] == ["nuclei"]
    check_ngff(image, version)


def test_a_list_that_cannot_be_written_leaves_the_older_labels(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = write_labels(label_target(open_volume(image), "nuclei"), seed=1)
    pending = label_target(open_volume(image), "nuclei", overwrite=True).create(np.uint32)
    with monkeypatch.context() as patch:
        patch.setattr("embedseg_large.labels.on_disk.DiskLabels._list", fail)
        with pytest.raises(OSError, match="Input/output error"):
            pending.publish({})
    assert np.array_equal(stored(image, "nuclei"), before)
    assert Path(pending.path).exists()


def test_labels_of_a_publication_that_was_killed_come_back(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = write_labels(label_target(open_volume(image), "nuclei"), seed=1)
    pending = label_target(open_volume(image), "nuclei", overwrite=True).create(np.uint32)

    def rename(old: Path, new: Path) -> None:
        if new.name != "nuclei":  # killed between the renames: nothing comes to the final name
            old.replace(new)

    with monkeypatch.context() as patch:
        patch.setattr("os.rename", rename)
        patch.setattr("embedseg_large.labels.on_disk.DiskLabels._list", fail)
        with pytest.raises(OSError, match="Input/output error"):
            pending.publish({})
    assert not (image / "labels" / "nuclei").exists()
    with pytest.raises(LabelsExistError):
        label_target(open_volume(image), "nuclei")
    assert np.array_equal(stored(image, "nuclei"), before)


@pytest.mark.parametrize("at", [".", "labels"])
def test_consolidated_metadata_do_not_hide_new_labels(
    image: Path, version: str, at: str, check_ngff: CheckNGFF
) -> None:
    write_labels(label_target(open_volume(image), "first"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr 3 has no word for consolidated metadata yet
        zarr.consolidate_metadata(str(image / at), zarr_format=2 if version == "0.4" else 3)
    labels = write_labels(label_target(open_volume(image), "second"))
    write_labels(label_target(open_volume(image), "first", overwrite=True))
    root: Any = zarr.open_group(str(image / at), mode="r", use_consolidated=True)
    group = root["labels"] if at == "." else root
    assert sorted(group.group_keys()) == ["first", "second"]
    assert np.array_equal(group["second/0"][:], labels)
    assert "embedseg_large" in group["first"].attrs
    check_ngff(image, version)


def test_consolidated_metadata_of_a_plate_are_kept_in_step(tmp_path: Path, version: str) -> None:
    zarr_format: Any = 2 if version == "0.4" else 3
    plate = tmp_path / "plate.zarr"
    zarr.create_group(str(plate), zarr_format=zarr_format).create_group("A").create_group("1")
    write_image(plate / "A" / "1" / "0", np.ones((8, 8), np.uint8), "yx", ngff_version=version)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(plate), zarr_format=zarr_format)
    volume: Volume = open_volume(plate / "A" / "1" / "0")
    write_labels(label_target(volume, "cells"))
    root: Any = zarr.open_group(str(plate), mode="r", use_consolidated=True)
    assert root["A/1/0/labels/cells/0"].shape == (8, 8)
    assert root["A/1/0/0"].shape == (8, 8)
