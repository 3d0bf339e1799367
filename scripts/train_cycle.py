r"""Train a bundled model further, for one cycle of warm-up and cosine.

::

    python scripts/train_cycle.py nuclei-3d --data DATA --out FOLDER \
        --first 40000 --last 50000

Unlike `train_bundled.py`, which trains from the first to the last step with one recipe, a cycle
starts from weights that are good, with frozen batch normalisation, and mixes more sources of crops:
annotated ones with wide augmentation and as they are, synthetic ones, empty ones, and crops around
false objects of the weights it starts from. Shares move linearly over the cycle. FOLDER gets the
state (``last.pt``, written every 500 steps and resumed from), ``steps.log`` with a line per 500
steps, and the mean of the weights as a model, ``average.safetensors``. Resumed with another
``--last``, a cycle becomes shorter or longer.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from math import ceil
from pathlib import Path
from typing import cast

import numpy as np
import torch
from train_bundled import data_of

import embedseg_large as es
from embedseg_large.geometry import Box
from embedseg_large.network.device import training_dtype
from embedseg_large.network.model import Model
from embedseg_large.synthesis import SynthesisSettings
from embedseg_large.training.data.augment import (
    AugmentSettings,
    allowed_symmetries,
    draw_view,
    source_shape,
)
from embedseg_large.training.data.crops import cut, emptiest, find_centers
from embedseg_large.training.data.dataset import CropDataset, Key
from embedseg_large.training.data.intensities import distort, drawn_ranges
from embedseg_large.training.data.mixed import split
from embedseg_large.training.data.properties import measure
from embedseg_large.training.data.sources import Pair, find_pairs
from embedseg_large.training.data.supply import AnnotatedSource, LabelledVolume
from embedseg_large.training.data.synthetic import SyntheticSource, objects_of
from embedseg_large.training.data.targets import Sample
from embedseg_large.training.learner import Learner
from embedseg_large.training.processes import Processes
from embedseg_large.training.settings import TrainSettings

EPOCH = 500
"""Steps between lines of the log and saved states."""
SHOWN_TOGETHER = 6
"""Synthetic volumes that crops of `TOGETHER` steps are cut from: drawing one takes as long as the
network does for a crop."""
TOGETHER = 40
BATCH = {2: 4, 3: 2}

VARIED = AugmentSettings.robust()
PLAIN = replace(VARIED.narrowed(0.1), scale=(0.87, 1.15), stretch=1.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Shares of the crops at the start and the end of a cycle."""

    synthetic: tuple[float, float]
    varied: tuple[float, float]
    empty: tuple[float, float]
    false: tuple[float, float]
    plain: tuple[float, float]

    def drawn(self, done: float, rng: np.random.Generator) -> str:
        """Draw the name of a source when a fraction of the cycle is done."""
        ends = {each.name: getattr(self, each.name) for each in fields(self)}
        shares = np.array([a + (b - a) * done for a, b in ends.values()])
        return str(rng.choice(list(ends), p=shares / shares.sum()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """How a model is trained further."""

    mix: Mix
    crop: tuple[int, ...]
    large: tuple[int, ...]
    large_share: tuple[float, float]
    scale: tuple[float, float]
    flat: float = 0.0
    """Share of varied crops whose z is compressed, by 0.42 to 1."""


CYCLES = {
    "nuclei-3d": Cycle(
        mix=Mix(
            synthetic=(0.30, 0.18),
            varied=(0.25, 0.15),
            empty=(0.05, 0.05),
            false=(0.15, 0.17),
            plain=(0.25, 0.45),
        ),
        crop=(32, 64, 64),
        large=(40, 80, 80),
        large_share=(0.0, 0.5),
        scale=(0.5, 2.5),
        flat=0.35,
    ),
    "nuclei-2d": Cycle(
        mix=Mix(
            synthetic=(0.0, 0.0),
            varied=(0.65, 0.35),
            empty=(0.02, 0.02),
            false=(0.0, 0.0),
            plain=(0.33, 0.63),
        ),
        crop=(160, 160),
        large=(256, 256),
        large_share=(0.0, 0.3),
        scale=(0.5, 2.0),
    ),
}


class Crops:
    """The crops of a cycle, as `Learner` asks for them: crop ``i`` of epoch ``e``.

    A crop depends on the seed, on the length of the cycle, and on its key alone.
    """

    errors = None

    def __init__(
        self, pairs: list[Pair], model: Model, steps: int, false: list[tuple[int, Box]], seed: int
    ) -> None:
        self._cycle, self._steps, self._seed = CYCLES[name_of(model)], steps, seed
        self._batch = BATCH[model.ndim]
        crop = self._cycle.crop
        self.properties = measure(pairs, crop=crop, pitch=model.pitch, quantiles=True)
        centers = find_centers(pairs, self.properties.objects, "approximate-medoid")
        self._real = AnnotatedSource(
            pairs, self.properties, centers, small_objects=2.0 if model.ndim == 2 else 1.0
        )
        self._drawn = SyntheticSource(
            SynthesisSettings(ndim=model.ndim), 200_000, seed, cache_bytes=0
        )
        self._symmetries = allowed_symmetries(
            None, self.properties.pitch, self.properties.voxel_size
        )
        self._false = false
        self._held: dict[int, LabelledVolume] = {}

    def __len__(self) -> int:
        return EPOCH * self._batch

    def __getitem__(self, key: Key) -> Sample:
        """Cut a crop; those of a step have one shape."""
        epoch, i = key
        step = epoch * EPOCH + i // self._batch
        done = step / self._steps
        low, high = self._cycle.large_share
        of_step = np.random.default_rng((self._seed, step))
        is_large = of_step.random() < low + (high - low) * done
        rng = np.random.default_rng((self._seed, epoch, i + 1))
        kind = self._cycle.mix.drawn(done, rng)
        return self._cut(kind, self._cycle.large if is_large else self._cycle.crop, step, rng)

    def _cut(
        self, kind: str, shape: tuple[int, ...], step: int, rng: np.random.Generator
    ) -> Sample:
        volume, target = self._place(kind, step, rng)
        read = (self._drawn if kind == "synthetic" else self._real).read
        augment = self._augment(kind, rng)
        view = draw_view(augment, self._symmetries, rng)
        if augment is not PLAIN and rng.random() < self._cycle.flat:
            z = view.zoom[0] * float(np.exp(rng.uniform(np.log(0.42), 0)))
            view = replace(view, zoom=(z, *view.zoom[1:]))
        image = volume.image
        if augment.intensity.draws_percentiles and image.tables is not None and kind != "plain":
            ranges = drawn_ranges(image.tables, image.ranges, augment.intensity, rng)
            image = replace(image, ranges=ranges)
        if kind == "empty":
            target = emptiest(image, source_shape(shape, view), rng, read=read)
        sample = cut(image, target, shape, view, read=read)
        objects = sample.labels if sample.masks is None else sample.masks
        return replace(sample, image=distort(sample.image, augment.intensity, rng, objects))

    def _place(self, kind: str, step: int, rng: np.random.Generator) -> tuple[LabelledVolume, Box]:
        """Choose a volume, and what to cut around."""
        if kind == "synthetic":
            volume = self._synthetic(step // TOGETHER * SHOWN_TOGETHER, rng)
            return volume, volume.objects.box(int(rng.integers(len(volume.objects))))
        if kind == "false" and self._false:
            index, target = self._false[int(rng.integers(len(self._false)))]
            return self._real.volume(index), target
        index, row = (int(n) for n in self._real.draw(1, rng)[0])
        volume = self._real.volume(index)
        return volume, volume.objects.box(row)

    def _augment(self, kind: str, rng: np.random.Generator) -> AugmentSettings:
        if kind == "synthetic":
            return VARIED.narrowed(0.3)
        if kind == "plain" or (kind == "false" and rng.random() < 0.5):
            return PLAIN
        return replace(VARIED, scale=self._cycle.scale)

    def _synthetic(self, first: int, rng: np.random.Generator) -> LabelledVolume:
        """One of the volumes shown together, kept while crops are cut from them."""
        index = first + int(rng.integers(SHOWN_TOGETHER))
        if index not in self._held:
            self._held = {i: v for i, v in self._held.items() if i >= first}
            self._held[index] = self._drawn.volume(index)
        return self._held[index]


def learner_of(crops: Crops, model: Model, args: argparse.Namespace) -> Learner:
    """The network and its optimiser, from the weights of a model."""
    settings = TrainSettings.of_recipe(
        "robust",
        steps=args.last - args.first,
        epoch_steps=EPOCH,
        batch=BATCH[model.ndim],
        learning_rate=args.peak,
        weight_decay=0.0,
        warmup=200,
        frozen_share=1.0,
        late_share=0.0,
        seed=args.first,
        threads=args.threads,
        dtype=args.dtype or training_dtype("cpu"),
    )
    return Learner(cast("CropDataset", crops), settings, model, Processes())


def save(learner: Learner, model: Model, epochs: int, folder: Path) -> None:
    """Write the state after some epochs, and the mean of the weights as a model."""
    state = learner.state() | {"epochs": epochs, "random": learner.random}
    torch.save(state, folder / "new.pt")
    (folder / "new.pt").replace(folder / "last.pt")
    mean = Model(learner.weights, model.settings, card=model.card)
    mean.save(folder / "average.safetensors")


def resumed(learner: Learner, folder: Path) -> int:
    """Go on from a state, if there is one; returns the epochs done."""
    path = folder / "last.pt"
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    learner.restore(state, state["random"])
    return int(state["epochs"])


def name_of(model: Model) -> str:
    """The bundled model that is trained."""
    return f"nuclei-{model.ndim}d"


def pairs_of(name: str, data: Path) -> list[Pair]:
    """The images to learn from, with their masks."""
    found = data_of(name, data)
    if name == "nuclei-2d":
        return split(find_pairs(found["images"], found["masks"], ndim=2), 0.15, 0)[0]
    return find_pairs(found["images"], found["masks"], ndim=3, axes="zyx")


def false_objects(model: Model, pairs: Sequence[Pair]) -> Iterator[tuple[int, Box]]:
    """Objects that a model finds where nothing is annotated."""
    seed, margin = 0.8, model.thresholds_of(False).margin
    for i, pair in enumerate(pairs):
        image = np.asarray(pair.image.data)
        truth = pair.flat_labels(Box.whole(pair.shape))
        labels = es.cluster(
            model.predict(es.normalise(image), tta=False),
            model.min_object_size,
            seed=seed,
            margin=margin,
        )
        if not labels.any():
            continue
        touched = np.unique(labels[truth != 0])
        objects = objects_of(labels.astype(np.int32))
        for row in np.flatnonzero(~np.isin(objects.ids, touched)).tolist():
            yield i, objects.box(row)


def known_false(model: Model, pairs: Sequence[Pair], folder: Path) -> list[tuple[int, Box]]:
    """The false objects of the weights that a cycle begins with, found once."""
    listed = folder / "false.json"
    if not listed.exists():
        found = list(false_objects(model, pairs))
        listed.write_text(json.dumps([[i, b.start, b.stop] for i, b in found]))
    return [(i, Box(tuple(a), tuple(b))) for i, a, b in json.loads(listed.read_text())]


def main() -> None:
    """Train one cycle."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("start", help="model to begin with: a bundled name or a file")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the state")
    parser.add_argument("--first", type=int, required=True, help="steps before this cycle")
    parser.add_argument("--last", type=int, required=True, help="steps after this cycle")
    parser.add_argument("--peak", type=float, default=3e-4, help="learning rate")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", help="default: bfloat16 where it is native, else float32")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    args.out.mkdir(parents=True, exist_ok=True)
    model = es.load_model(args.start)
    pairs = pairs_of(name_of(model), args.data)
    false = known_false(model, pairs, args.out) if model.ndim == 3 else []
    crops = Crops(pairs, model, args.last - args.first, false, seed=args.first)
    learner = learner_of(crops, model, args)
    done = resumed(learner, args.out)
    total = ceil((args.last - args.first) / EPOCH)
    logging.info("epoch %d of %d, %d false objects", done, total, len(false))
    for epoch in range(done, total):
        begin = time.perf_counter()
        means = learner.learn(epoch)
        save(learner, model, epoch + 1, args.out)
        step = args.first + learner.steps_done(epoch + 1)
        with (args.out / "steps.log").open("a") as log:
            print(
                f"{time.strftime('%H:%M:%S')} {step} loss {means.loss['total']:.4f} "
                f"iou {means.iou:.4f} {time.perf_counter() - begin:.0f} s",
                file=log,
            )


if __name__ == "__main__":
    main()
