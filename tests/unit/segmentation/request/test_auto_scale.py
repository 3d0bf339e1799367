"""The scale at which a model is most consistent is kept; it is recorded, and found only once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import embedseg_large as es
from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.labels.provenance import is_choice
from embedseg_large.segmentation.options import SegmentOptions
from embedseg_large.segmentation.request import prepare as preparing
from embedseg_large.segmentation.request.auto_scale import (
    FACTORS,
    STEP,
    STEPS,
    agreement,
    choose_scale,
    key_of,
    recorded,
)
from embedseg_large.segmentation.request.prepare import prepare
from embedseg_large.segmentation.request.scale import resampling_for
from embedseg_large.segmentation.request.scale_choice import described_scale, stated_of, table_of
from embedseg_large.segmentation.segmenters.tile_segmenter import TileSegmenter
from embedseg_large.segmentation.stages.job import Foreground
from embedseg_large.testing.objects import Objects
from embedseg_large.testing.oracle import OracleNetwork
from embedseg_large.testing.synthetic import synthetic_embryo

KNOWN = 12.0


@dataclass(frozen=True, kw_only=True, eq=False)
class KnowsOneWidth(OracleNetwork):
    """Finds the discs of an image, and is the surer the nearer they are to the width it knows.

    At other widths it finds only some of them, and others in a turned image.
    """

    width: float = KNOWN

    @property
    def object_diameter(self) -> float:
        """As stated."""
        return KNOWN

    def predict_tile(
        self,
        image: NDArray[np.float32],
        region: Box,
        tta: bool | int | str = "none",  # noqa: ARG002
    ) -> NDArray[np.float16]:
        """Predict the bright pieces of an image."""
        from scipy import ndimage

        ids, count = ndimage.label(image[0] > 0.5)
        ids[self.lost(ids, count)[ids]] = 0
        objects = Objects.of(ids.astype(np.int64))
        return objects.predict(ids.astype(np.int64), Box.whole(region.shape), self.flaws)

    def lost(self, ids: NDArray[Any], count: int) -> NDArray[np.bool_]:
        """Which of the pieces 0 to `count` are not found."""
        widths = np.sqrt(np.bincount(ids.ravel(), minlength=count + 1) * 4 / np.pi)
        off = np.abs(np.log(np.maximum(widths, 1) / self.width)) > np.log(1.6)
        places = np.arange(count + 1) % 3 != 0  # turned, they have other numbers
        lost: NDArray[np.bool_] = off & places
        return lost


def network(width: float = KNOWN) -> KnowsOneWidth:
    empty = OracleNetwork.of(np.ones((8, 8), np.uint16), min_object_size=4)
    return KnowsOneWidth(objects=empty.objects, tile=empty.tile, min_object_size=4, width=width)


def discs(diameter: float, seed: int = 1) -> NDArray[np.uint16]:
    shape = (int(12 * diameter),) * 2
    found = synthetic_embryo(shape, density=0.3, diameter=diameter, spacing=1.3, seed=seed) > 0
    return (found * 180 + 20).astype(np.uint16)


@pytest.mark.parametrize("factor", [FACTORS[1], FACTORS[2], FACTORS[4]])
def test_the_width_that_a_model_knows_is_found(factor: float) -> None:
    image = discs(KNOWN * factor)
    choice = choose_scale(es.open_volume(image), network())
    wanted = None if factor == 1 else pytest.approx(KNOWN * factor, rel=0.01)
    assert choice.diameter == wanted
    assert choice == choose_scale(es.open_volume(image), network())
    chosen = [t for t in choice.trials if t.diameter == choice.diameter]
    assert len(chosen) == 1
    assert chosen[0].objects > 10
    assert chosen[0].found == pytest.approx(KNOWN * factor, rel=0.25)


@dataclass(frozen=True, kw_only=True, eq=False)
class KnowsOneDepth(KnowsOneWidth):
    """Finds the first balls of a volume: the more, the nearer width and depth are to its own."""

    def lost(self, ids: NDArray[Any], count: int) -> NDArray[np.bool_]:
        """The last ones."""
        from scipy import ndimage

        sizes = [[s.stop - s.start for s in box] for box in ndimage.find_objects(ids)]
        off = np.log(np.median(sizes, axis=0) / self.width) if count else np.zeros(3)
        kept = count * (1 - 0.5 * off[0] ** 2 - 4 * off[1] ** 2)
        lost: NDArray[np.bool_] = np.arange(count + 1) > kept
        return lost


def balls(depth: float) -> NDArray[np.uint16]:
    """Balls of the known width, flattened to a depth."""
    shape = (48, 96, 96)
    radii = np.array([depth, KNOWN, KNOWN]) / 2
    centers = [np.arange(r, n - r, 2.4 * r) for r, n in zip(radii, shape, strict=True)]
    image = np.full(shape, 20, np.uint16)
    offsets = [
        np.abs(np.arange(n)[:, None] - c).min(axis=1) for n, c in zip(shape, centers, strict=True)
    ]
    z, y, x = np.meshgrid(*offsets, indexing="ij")
    image[((np.stack([z, y, x], -1) / radii) ** 2).sum(-1) <= 1] = 200
    return image


def network_of_depth() -> KnowsOneDepth:
    empty = OracleNetwork.of(np.ones((8, 8, 8), np.uint16), min_object_size=4)
    return KnowsOneDepth(objects=empty.objects, tile=empty.tile, min_object_size=4)


def test_flat_objects_are_given_the_depth_that_a_model_knows() -> None:
    volume = es.open_volume(balls(KNOWN / STEP**2))
    choice = choose_scale(volume, network_of_depth())
    assert choice.diameter is None
    assert choice.depth == pytest.approx(KNOWN / STEP**2, abs=0.01)
    assert choice.stated == f"{choice.depth:g},12"
    assert choice.sentence == "as if objects were 12 voxels wide and 5.71 deep"
    zoom = resampling_for(volume, network_of_depth(), choice.stated).zoom
    assert zoom == pytest.approx((STEP**2, 1, 1), rel=0.02)
    rows = table_of(choice.as_dict())[1]
    assert [row[1] for row in rows if row[0]] == ["5.71,12"]
    assert is_choice(choice.as_dict())
    assert choice == choose_scale(volume, network_of_depth())


def test_round_objects_keep_their_depth() -> None:
    choice = choose_scale(es.open_volume(balls(KNOWN)), network_of_depth())
    assert (choice.diameter, choice.depth, choice.stated) == (None, None, None)
    compared = [t.depth for t in choice.trials if t.depth is not None]
    assert compared == pytest.approx([KNOWN / STEP**k for k in STEPS], abs=0.01)


def test_a_choice_recorded_before_depths_were_compared_is_still_used() -> None:
    said = choose_scale(es.open_volume(discs(KNOWN * FACTORS[4])), network()).as_dict()
    del said["depth"]
    for trial in said["trials"]:
        del trial["depth"]
    assert is_choice(said)
    assert stated_of(said) == said["chosen"]
    assert described_scale(said).endswith("voxels wide")
    assert [row[0] for row in table_of(said)[1]].count("chosen") == 1


@pytest.mark.parametrize("image", [np.zeros((64, 64), np.uint8), np.full((9, 64, 64), 7, np.uint8)])
def test_where_nothing_is_the_image_is_taken_as_it_is(image: NDArray[Any]) -> None:
    labels = np.ones((8,) * image.ndim, np.uint16)
    model = OracleNetwork.of(labels)
    choice = choose_scale(es.open_volume(image), model)
    assert choice.diameter is None
    assert choice.is_empty
    assert "nothing consistent" in choice.sentence
    assert described_scale(choice.as_dict()) == choice.sentence


def test_only_a_mask_is_looked_at() -> None:
    image = np.full((400, 1200), 20, np.uint16)
    image[:140, :140] = discs(KNOWN)[:140, :140]
    mask = np.zeros(image.shape, np.uint8)
    mask[:, 700:] = 1
    volume, where = es.open_volume(image), Foreground(mask=es.open_volume(mask))
    assert choose_scale(volume, network(), foreground=where).is_empty
    assert not choose_scale(volume, network()).is_empty


def test_agreement_counts_what_has_no_partner() -> None:
    one = np.zeros((4, 8), np.uint32)
    one[:2, :4], one[2:, 4:] = 1, 2
    other = np.where(one == 1, 5, 0).astype(np.uint32)
    assert agreement([(one, one)]) == 1
    assert agreement([(one, other)]) == pytest.approx(2 / 3)
    assert agreement([(one, np.zeros_like(one))]) == 0
    assert agreement([(np.zeros_like(one),) * 2]) == 0


def test_a_run_that_is_resumed_keeps_its_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, out = discs(KNOWN * FACTORS[4]), tmp_path / "out.zarr"
    request = prepare(image, network(), "n", SegmentOptions(output=out, object_diameter="auto"))
    assert request.scale is not None
    assert request.resampling.zoom[-1] == pytest.approx(1 / FACTORS[4], rel=0.05)
    with requests_folder(request) as folder:
        folder.write("run.json", json_of({"facts": {"object_diameter": request.scale}}))
    monkeypatch.setattr(preparing, "choose_scale", refuse)
    again = prepare(image, network(), "n", SegmentOptions(output=out, object_diameter="auto"))
    assert again.scale == request.scale
    with pytest.raises(AssertionError, match="asked again"):
        prepare(
            image, network(), "n", SegmentOptions(output=out, object_diameter="auto", seed=0.95)
        )
    with pytest.raises(AssertionError, match="asked again"):
        prepare(image + 1, network(), "n", SegmentOptions(output=out, object_diameter="auto"))


def requests_folder(request: Any) -> Any:
    from contextlib import nullcontext

    from embedseg_large.storage.open import folder_at

    return nullcontext(folder_at(request.scratch.path))


def json_of(values: Any) -> bytes:
    import json

    return json.dumps(values).encode()


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("asked again")


def test_a_damaged_record_is_no_record(tmp_path: Path) -> None:
    from embedseg_large.storage.open import folder_at

    for text in ("{", "[]", "{}", '{"facts": {"object_diameter": 3}}', '{"facts": null}'):
        (tmp_path / "run.json").write_text(text)
        assert recorded(folder_at(str(tmp_path)), "run.json", key_of("a")) is None


def test_segmenters_of_other_makers_have_no_scale_to_be_found(tmp_path: Path) -> None:
    other = TileSegmenter(lambda image: image > 0, name="mine", halo=(8, 8), ndim=2)
    with pytest.raises(UsageError, match="mine: object diameter auto"):
        prepare(
            discs(20),
            other,
            "n",
            SegmentOptions(output=tmp_path / "o.zarr", object_diameter="auto"),
        )
    with pytest.raises(UsageError, match="pass voxels"):
        prepare(
            discs(20),
            "classical",
            "n",
            SegmentOptions(output=tmp_path / "o.zarr", object_diameter="auto"),
        )
