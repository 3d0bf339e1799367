"""A panel: sets of images, each scored by its own count, and how they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from embedseg_large.errors import UsageError
from embedseg_large.methods.embedseg import SEED_KNOB
from embedseg_large.training.data.panel import PanelSet, read_panel
from embedseg_large.training.tuning.thresholds import IOUS
from embedseg_large.training.validation import Example, Validation


def test_a_set_is_a_name_and_where_its_images_and_masks_are() -> None:
    first, second = read_panel(
        ["embryos=a/images,a/masks", "wide=b.ome.zarr,labels=nuclei,object_diameter=30,most=2"]
    )
    assert first == PanelSet(name="embryos", images="a/images", masks="a/masks")
    assert second == PanelSet(
        name="wide", images="b.ome.zarr", labels="nuclei", object_diameter=30.0, most=2
    )
    assert read_panel(None) == ()


def test_a_file_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "panel.yaml").write_text("a: {images: i, masks: m, channel: 1}\n")
    wanted = (PanelSet(name="a", images="i", masks="m", channel=1),)
    assert read_panel(tmp_path / "panel.yaml") == wanted
    assert read_panel([str(tmp_path / "panel.yaml")]) == wanted
    assert read_panel({"a": {"images": "i", "masks": "m", "channel": "1"}}) == wanted


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        (["images,masks"], "neither NAME=IMAGES,MASKS nor a .yaml"),
        (["a="], "masks or labels"),
        (["a=i"], "masks or labels"),
        (["a=i,m,x"], "is not like"),
        (["a=i,m,labels=n"], "only one of them"),
        (["a=i,m,diameter=3"], "did you mean object_diameter"),
        (["a=i,m,most=few"], "most 'few' is not a number"),
        (["a=i,m,object_diameter=0"], "must be positive"),
        (["a=i,m,object_diameter=inf"], "must be positive"),
        (["a=i,m,object_diameter=nan"], "must be positive"),
        (["a=i,m", "a=j,n"], "are called 'a'"),
        (["absent.yaml"], "absent.yaml"),
        ({"a": {"masks": "m"}}, "no images"),
    ],
)
def test_what_is_no_panel_is_refused_in_one_line(stated: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read_panel(stated)
    assert "\n" not in str(caught.value)


def by_seed(best: float, ap: float) -> dict[float, dict[float, float]]:
    return {s: dict.fromkeys(IOUS, ap if s == best else 0.0) for s in SEED_KNOB.values}


def test_sets_count_alike_whatever_their_size() -> None:
    found = Validation.of_sets({"few": by_seed(0.7, 0.9), "many": by_seed(0.7, 0.5)})
    assert found.seed == 0.7
    assert found.score == pytest.approx(0.7)
    assert found.sets == {
        "few": dict.fromkeys(IOUS, 0.9),
        "many": dict.fromkeys(IOUS, 0.5),
    }


class Half:
    """A model whose objects are half as wide, of images of unknown voxel size."""

    object_diameter = 8.0
    object_depth = None
    voxel_size = None


def test_a_stated_diameter_brings_the_objects_to_the_models_scale(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for name in "ab":
            voxels = (np.arange(600) // 10).astype(np.uint16).reshape(20, 30)
            tifffile.imwrite(tmp_path / kind / f"{name}.tif", voxels)
    (stated,) = read_panel([f"a={tmp_path}/images,{tmp_path}/masks,object_diameter=16,most=1"])
    (example,) = stated.examples(stated.pairs(2))
    model: Any = Half()
    assert example.set == "a"
    assert example.resampling(model).target == (10, 15)
    plain = Example.whole(example.pair, example.ranges)
    assert plain.resampling(model).is_identity
