"""What cannot be opened says what it is, and what to open instead; chunks are found."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from embedseg_large.errors import MetadataError, UsageError, VolumeError, VolumeNotFoundError
from embedseg_large.volumes.volume import open_volume


def group(folder: Path, **attributes: Any) -> Path:
    """A group of zarr v2."""
    folder.mkdir(parents=True)
    (folder / ".zgroup").write_text('{"zarr_format": 2}')
    (folder / ".zattrs").write_text(json.dumps(attributes))
    return folder


def test_another_image_of_what_holds_one_is_refused(tmp_path: Path) -> None:
    voxels = np.ones((8, 9, 10), np.uint8)
    zarr.create_array(tmp_path / "a.zarr", data=voxels)
    Image.fromarray(voxels[0]).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", voxels, metadata={"axes": "ZYX"})
    for source in (voxels, *(tmp_path / f"a.{kind}" for kind in ("zarr", "png", "tif"))):
        assert open_volume(source, series=0).ndim == open_volume(source).ndim
        with pytest.raises(UsageError, match=r"no image 1, there is 1"):
            open_volume(source, series=1)


@pytest.mark.parametrize("first", [True, False], ids=["whole", "without its first chunks"])
def test_nested_chunks_are_found_where_the_separator_is_not_named(
    tmp_path: Path, first: bool
) -> None:
    voxels = np.random.default_rng(0).integers(1, 9, (8, 8, 8)).astype(np.uint16)
    place = tmp_path / "a.zarr"
    keys: Any = {"name": "v2", "separator": "/"}
    array = zarr.create_array(
        str(place),
        shape=voxels.shape,
        dtype=voxels.dtype,
        chunks=(4, 4, 4),
        zarr_format=2,
        chunk_key_encoding=keys,
    )
    array[:] = voxels
    about = json.loads((place / ".zarray").read_text())
    del about["dimension_separator"]
    (place / ".zarray").write_text(json.dumps(about))
    if not first:
        rmtree(place / "0")
        voxels[:4] = 0
    volume = pickle.loads(pickle.dumps(open_volume(place)))
    np.testing.assert_array_equal(volume.data.compute(), voxels)


def test_a_place_in_a_plate_that_is_not_there_leads_to_one_that_is(tmp_path: Path) -> None:
    plate = group(tmp_path / "p.zarr", plate={"wells": [{"path": "B/03"}]})
    with pytest.raises(VolumeNotFoundError, match=r"p.zarr exists: .* such as .*p.zarr/B/03/0"):
        open_volume(plate / "C" / "11" / "0")


def test_a_missing_image_that_its_well_lists_does_not_lead_to_itself(tmp_path: Path) -> None:
    well = group(tmp_path / "p.zarr" / "B" / "03", well={"images": [{"path": "0"}]})
    with pytest.raises(VolumeNotFoundError, match=r"03/0: there is no .*03 exists$"):
        open_volume(well / "0")
    with pytest.raises(VolumeNotFoundError, match=r"open one of its images: .*03/0$"):
        open_volume(well / "1")


def test_folders_that_are_no_store_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "planes").mkdir()
    tifffile.imwrite(tmp_path / "planes" / "0.tif", np.ones((4, 4), np.uint8))
    with pytest.raises(VolumeError, match=r"convert .*planes OUT.ome.zarr --stack z"):
        open_volume(tmp_path / "planes")
    (tmp_path / "n5").mkdir()
    (tmp_path / "n5" / "attributes.json").write_text("{}")
    with pytest.raises(VolumeError, match="it is N5"):
        open_volume(tmp_path / "n5")


def test_metadata_that_are_not_valid_lead_to_the_array(tmp_path: Path) -> None:
    axes = [{"name": a, "type": "space"} for a in "zyx"] + [{"name": "c", "type": "channel"}]
    scale = [{"type": "scale", "scale": [1, 1, 1, 1]}]
    image = group(
        tmp_path / "a.zarr",
        multiscales=[
            {
                "version": "0.4",
                "axes": axes,
                "datasets": [{"path": "0", "coordinateTransformations": scale}],
            }
        ],
    )
    zarr.create_array(str(image / "0"), shape=(4, 8, 8, 2), dtype="u2", zarr_format=2)
    with pytest.raises(MetadataError, match=r"axes is not valid.*a.zarr/0 with --axes"):
        open_volume(image)
    assert open_volume(image / "0", axes="zyxc", channel=1).shape == (4, 8, 8)
