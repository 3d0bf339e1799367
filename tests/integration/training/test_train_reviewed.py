"""Training on reviews: what was looked at counts, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

import embedseg_large as es
from embedseg_large.cli.app import app
from embedseg_large.conversion.plan import write_image
from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.labels.target import label_target
from embedseg_large.review.annotation import annotation_of
from embedseg_large.testing.synthetic import render, synthetic_embryo
from embedseg_large.training.data.reviewed import reviewed_pairs

SETTINGS: dict[str, Any] = {
    "epochs": 1,
    "batch": 1,
    "epoch_crops": 2,
    "crop": (32, 32),
    "pictures_every": 0,
}


def written(folder: Path, labels: NDArray[Any], axes: str = "yx", **provenance: Any) -> Path:
    """A store with an image and its labels."""
    folder.mkdir(exist_ok=True)
    store = folder / "cells.ome.zarr"
    planes = labels.reshape(-1, *labels.shape[-2:])
    image = np.stack([render(plane) for plane in planes]).reshape(labels.shape)
    write_image(store, image, axes, (0.5, 0.5))
    pending = label_target(es.open_volume(store, channel=None), "cells").create(np.uint32)
    for t in range(len(planes)):
        at = t if "t" in axes else None
        for level in range(pending.n_levels):
            for box in pending.regions(level):
                if level:
                    pending.downsample(level, box, at)
                else:
                    pending.write(0, box, planes[t][box.slices], at)
    pending.publish({"token": "a run"} | provenance)
    return store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    labels = synthetic_embryo((96, 96), n_objects=12, diameter=18, spacing=1.1, seed=1)
    return written(tmp_path / "one", labels)


def decide(store: Path, **options: Any) -> es.Review:
    review = es.open_review(store, **options)
    review.apply_script("accept 1\naccept 2\ndelete 3\nmerge 4 5\n")
    return review


def weights(model: es.Model) -> dict[str, torch.Tensor]:
    return dict(model.weights)


def test_a_review_trains_as_an_image_with_its_mask(store: Path, tmp_path: Path) -> None:
    review = decide(store)
    annotation = annotation_of(review)
    mask = annotation.read(Box.whole(annotation.shape))
    assert set(np.unique(mask)) == {-1, 0, 1, 2, 4}
    image = es.open_volume(store).data.compute()
    pairing = {"axes": "yx", "voxel_size": (0.5, 0.5)}
    there = es.train([image], [mask], out=tmp_path / "a", pairing=pairing, **SETTINGS)
    here = es.train(reviewed=store, out=tmp_path / "b", **SETTINGS)
    assert weights(here).keys() == weights(there).keys()
    assert all(torch.equal(a, weights(there)[name]) for name, a in weights(here).items())


def test_the_command_fine_tunes_on_reviews_and_images_together(store: Path, tmp_path: Path) -> None:
    decide(store)
    other = synthetic_embryo((96, 96), n_objects=12, diameter=18, spacing=1.1, seed=2)
    second = written(tmp_path / "two", other)
    out = tmp_path / "tuned.safetensors"
    data = ["--reviewed", str(store / "labels" / "cells"), "--images", str(second)]
    data += ["--labels", "cells", "--validation", "0"]
    short = ["--epochs", "1", "--batch", "1", "--epoch-crops", "2", "--crop", "32,32"]
    short += ["--pictures-every", "0"]
    result = CliRunner().invoke(
        app, ["train", "--out", str(out), "--from", "nuclei-2d", *data, *short]
    )
    assert result.exit_code == 0, result.output
    assert es.load_model(out).card["data"]["n_objects"] == 3 + 12


def test_of_a_series_every_reviewed_timepoint_counts(tmp_path: Path) -> None:
    frames = [
        synthetic_embryo((64, 64), n_objects=8, diameter=14, spacing=1.1, seed=s) for s in range(3)
    ]
    store = written(tmp_path, np.stack(frames), "tyx")
    for t in (0, 2):
        decide(store, timepoint=t)
    pairs = reviewed_pairs([store])
    assert [p.image.timepoint for p in pairs] == [0, 2]
    for pair, frame in zip(pairs, (frames[0], frames[2]), strict=True):
        mask = pair.mask.data.compute()
        assert np.array_equal(mask == 1, frame == 1)
        assert np.array_equal(pair.image.data.compute(), render(frame))
    assert len(reviewed_pairs(store, timepoint=2)) == 1


def test_the_channel_is_the_one_that_was_segmented(tmp_path: Path) -> None:
    labels = synthetic_embryo((64, 64), n_objects=8, diameter=14, spacing=1.1, seed=4)
    store = tmp_path / "two channels.ome.zarr"
    image = np.stack([np.zeros_like(render(labels)), render(labels)])
    write_image(store, image, "cyx", (0.5, 0.5))
    result = es.segment(store, "nuclei-2d", labels="cells", channel=1, tta="none", seed=0.5)
    assert result.n_instances
    review = es.open_review(store)
    review.accept(1)
    (pair,) = reviewed_pairs(review)
    assert pair.image.channel == 1
    assert pair.image.data.compute().any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"reviewed": "STORE"}, "nothing was reviewed; accept or correct some instances first"),
        ({"reviewed": 3}, "a review is a path or a Review, not int"),
        ({"reviewed": "STORE", "masks": "m"}, "reviews need none"),
        ({"reviewed": "STORE/labels/nope"}, "existing labels: cells"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_before_any_work(
    store: Path, tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    given = {
        name: value.replace("STORE", str(store)) if isinstance(value, str) else value
        for name, value in given.items()
    }
    if "masks" in given:
        decide(store)
    with pytest.raises((UsageError, ValueError), match=message):
        es.train(out=tmp_path / "m", **given)
    assert not (tmp_path / "m.training").exists()


def test_a_review_of_labels_that_changed_is_not_trained_on(store: Path, tmp_path: Path) -> None:
    decide(store)
    volume = es.open_volume(store / "labels" / "cells")
    target = label_target(es.open_volume(store), "cells", overwrite=True)
    pending = target.create(np.uint32)
    for level in range(pending.n_levels):
        for box in pending.regions(level):
            if level:
                pending.downsample(level, box)
            else:
                pending.write(0, box, volume.read(box))
    pending.publish({"token": "another run"})
    with pytest.raises(UsageError, match="has changed since its review began"):
        es.train(reviewed=store, out=tmp_path / "m", **SETTINGS)
