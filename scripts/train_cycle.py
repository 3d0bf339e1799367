r"""Train a bundled model further, for one cycle of warm-up and cosine.

::

    python scripts/train_cycle.py nuclei-3d --data DATA --out FOLDER \
        --first 27100 --last 40000

Unlike `train_bundled.py`, which trains from the first to the last step with one recipe, a cycle
starts from weights that are good, with frozen batch normalisation, and mixes more sources of crops:
annotated ones with wide augmentation and as they are, synthetic ones, empty ones, and crops around
false objects of the weights it starts from. Shares move linearly over the cycle. FOLDER gets the
state (``last.pt``, written every 500 steps and on SIGTERM, and resumed from), ``steps.log``, and
the mean of the weights as a model, ``average.safetensors``. Resumed with another ``--last``, a
cycle becomes shorter or longer.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from train_bundled import RECIPES, data_of

import embedseg_large as es
from embedseg_large.geometry import Box
from embedseg_large.network.backbones import new_network
from embedseg_large.network.device import training_dtype
from embedseg_large.network.model import Model
from embedseg_large.synthesis import SynthesisSettings
from embedseg_large.training.average import averaged
from embedseg_large.training.data.augment import (
    AugmentSettings,
    allowed_symmetries,
    draw_view,
    source_shape,
)
from embedseg_large.training.data.crops import cut, emptiest, find_centers
from embedseg_large.training.data.intensities import distort, drawn_ranges
from embedseg_large.training.data.mixed import split
from embedseg_large.training.data.properties import measure
from embedseg_large.training.data.sources import Pair, find_pairs
from embedseg_large.training.data.supply import AnnotatedSource, LabelledVolume
from embedseg_large.training.data.synthetic import SyntheticSource
from embedseg_large.training.data.targets import Sample, collate
from embedseg_large.training.loss.loss import embedding_loss
from embedseg_large.training.normalisation import freeze
from embedseg_large.training.schedule import Schedule

AVERAGE = 1000
SAVE_EVERY = 500
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

    def at(self, done: float) -> np.ndarray:
        """Shares when a fraction of the cycle is done."""
        ends = (self.synthetic, self.varied, self.empty, self.false, self.plain)
        shares = np.array([a + (b - a) * done for a, b in ends])
        return shares / shares.sum()


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
    """Crops of all sources; crop ``i`` depends on the seed and on ``i`` alone."""

    def __init__(self, pairs: list[Pair], model: Model, cycle: Cycle, seed: int) -> None:
        self._cycle, self._seed, self._ndim = cycle, seed, model.ndim
        self.properties = measure(pairs, crop=cycle.crop, pitch=model.pitch, quantiles=True)
        centers = find_centers(pairs, self.properties.objects, "approximate-medoid")
        self._real = AnnotatedSource(
            pairs, self.properties, centers, small_objects=2.0 if model.ndim == 2 else 1.0
        )
        self._count = len(pairs)
        self._drawn = SyntheticSource(
            SynthesisSettings(ndim=model.ndim), 200_000, seed, cache_bytes=0
        )
        self._symmetries = allowed_symmetries(
            None, self.properties.pitch, self.properties.voxel_size
        )
        self._false: list[tuple[int, Box]] = []
        self._held: dict[int, LabelledVolume] = {}

    def around(self, false: Sequence[tuple[int, Box]]) -> None:
        """Replace the list of false objects: image and bounding box."""
        self._false = list(false)

    def batch(self, step: int, done: float) -> list[Sample]:
        """The crops of a step, all of one shape."""
        rng = np.random.default_rng((self._seed, step))
        self._first = step // TOGETHER * SHOWN_TOGETHER
        low, high = self._cycle.large_share
        large = rng.random() < low + (high - low) * done
        shape = self._cycle.large if large else self._cycle.crop
        kinds = rng.choice(5, BATCH[self._ndim], p=self._cycle.mix.at(done))
        return [self._crop(int(kind), shape, rng) for kind in kinds]

    def _crop(self, kind: int, shape: tuple[int, ...], rng: np.random.Generator) -> Sample:
        source: Any = self._real
        augment = replace(VARIED, scale=self._cycle.scale)
        if kind == 0:
            source, augment = self._drawn, VARIED.narrowed(0.3)
            volume = self._synthetic(self._first + int(rng.integers(SHOWN_TOGETHER)))
            target = volume.objects.box(int(rng.integers(len(volume.objects))))
        elif kind == 3 and self._false:
            index, target = self._false[int(rng.integers(len(self._false)))]
            volume = source.volume(index)
            augment = PLAIN if rng.random() < 0.5 else augment
        else:
            index, row = (int(n) for n in source.draw(1, rng)[0])
            volume = source.volume(index)
            target = volume.objects.box(row)
            augment = PLAIN if kind == 4 else augment
        view = draw_view(augment, self._symmetries, rng)
        if augment is not PLAIN and rng.random() < self._cycle.flat:
            z = view.zoom[0] * float(np.exp(rng.uniform(np.log(0.42), 0)))
            view = replace(view, zoom=(z, *view.zoom[1:]))
        image = volume.image
        if augment.intensity.draws_percentiles and image.tables is not None and kind != 4:
            ranges = drawn_ranges(image.tables, image.ranges, augment.intensity, rng)
            image = replace(image, ranges=ranges)
        if kind == 2:
            target = emptiest(image, source_shape(shape, view), rng, read=source.read)
        sample = cut(image, target, shape, view, read=source.read)
        objects = sample.labels if sample.masks is None else sample.masks
        return replace(sample, image=distort(sample.image, augment.intensity, rng, objects))

    def _synthetic(self, index: int) -> LabelledVolume:
        """A volume, kept while crops are cut from it."""
        if index not in self._held:
            self._held = {i: v for i, v in self._held.items() if i >= self._first}
            self._held[index] = self._drawn.volume(index)
        return self._held[index]


class Training:
    """The network, its optimiser and the mean of its weights."""

    def __init__(self, model: Model, schedule: Schedule, folder: Path, dtype: str) -> None:
        self._model, self._schedule, self._folder = model, schedule, folder
        self._dtype = getattr(torch, dtype)
        flat = model.ndim == 2
        self._layout = torch.channels_last if flat else torch.channels_last_3d
        self.network = new_network(model.settings)
        self.network.load_state_dict({k: v.float() for k, v in model.weights.items()})
        self.network = self.network.to(memory_format=self._layout)
        parameters = list(self.network.parameters())
        self._optimiser = torch.optim.Adam(parameters, lr=schedule.peak, fused=True)
        self._average = averaged(self.network, AVERAGE)
        self.step = 0

    def learn(self, samples: list[Sample], weight: float) -> tuple[float, float]:
        """One step; returns its loss and the mean overlap."""
        self.network.train()
        freeze(self.network)
        batch = collate(samples)
        with torch.autocast("cpu", self._dtype, self._dtype != torch.float32):
            raw = self.network(batch.image.contiguous(memory_format=self._layout))
        found = embedding_loss(raw, batch, pitch=self._model.pitch, foreground_weight=weight)
        found.total.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        for group in self._optimiser.param_groups:
            group["lr"] = self._schedule.rate(self.step)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self._average.update_parameters(self.network)
        self.step += 1
        overlaps = found.overlaps
        return float(found.total.detach()), float(overlaps.mean()) if len(overlaps) else 1.0

    def save(self) -> None:
        """Write the state, and the mean of the weights as a model."""
        state = {
            "step": self.step,
            "network": self.network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "average": self._average.state_dict(),
        }
        torch.save(state, self._folder / "new.pt")
        (self._folder / "new.pt").replace(self._folder / "last.pt")
        mean = Model(self._average.module.state_dict(), self._model.settings, card=self._model.card)
        mean.save(self._folder / "average.safetensors")

    def resume(self) -> bool:
        """Go on from a state, if there is one."""
        path = self._folder / "last.pt"
        if not path.exists():
            return False
        state = torch.load(path, weights_only=True)
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._average.load_state_dict(state["average"])
        return True


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
        touched = set(np.unique(labels[truth != 0]).tolist())
        for number, at in enumerate(_boxes(labels), start=1):
            if at is not None and number not in touched:
                yield i, at


def _boxes(labels: np.ndarray) -> list[Box | None]:
    from scipy.ndimage import find_objects

    found = find_objects(labels.astype(np.int32))
    return [
        None if at is None else Box(tuple(s.start for s in at), tuple(s.stop for s in at))
        for at in found
    ]


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
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.first)
    model = es.load_model(args.start)
    name = f"nuclei-{model.ndim}d"
    pairs = pairs_of(name, args.data)
    steps = args.last - args.first
    schedule = Schedule(
        shape="cosine", peak=args.peak, steps=steps, epoch_steps=SAVE_EVERY, warmup=200
    )
    training = Training(model, schedule, args.out, args.dtype or training_dtype("cpu"))
    resumed = training.resume()
    crops = Crops(pairs, model, CYCLES[name], seed=args.first)
    if model.ndim == 3:
        listed = args.out / "false.json"
        if not listed.exists():
            found = list(false_objects(model, pairs))
            listed.write_text(json.dumps([[i, b.start, b.stop] for i, b in found]))
        boxes = json.loads(listed.read_text())
        crops.around([(i, Box(tuple(a), tuple(b))) for i, a, b in boxes])
        logging.info("%d false objects in %d volumes", len(boxes), len(pairs))
    weight = RECIPES[name].get("foreground_weight") or crops.properties.foreground_weight
    logging.info("step %d of %d, resumed: %s", training.step, steps, resumed)
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    losses: list[tuple[float, float]] = []
    begin = time.perf_counter()
    with (args.out / "steps.log").open("a") as log, threadpool_limits(1, user_api="blas"):
        while training.step < steps and not stopped:
            losses.append(training.learn(crops.batch(training.step, training.step / steps), weight))
            if training.step % 100 == 0:
                loss, overlap = np.mean(losses, axis=0)
                seconds = (time.perf_counter() - begin) / len(losses)
                print(
                    f"{time.strftime('%H:%M:%S')} {args.first + training.step} loss {loss:.4f} "
                    f"iou {overlap:.4f} {seconds:.3f} s/step",
                    file=log,
                    flush=True,
                )
                losses, begin = [], time.perf_counter()
            if training.step % SAVE_EVERY == 0 or training.step == steps or stopped:
                training.save()


if __name__ == "__main__":
    main()
