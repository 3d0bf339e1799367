"""Draw the pictures of these docs: ``python docs/drawings.py [FIGURE ...]``.

Figures of the concepts are drawn twice, ``images/NAME-light.svg`` and ``images/NAME-dark.svg``, on
no background. ``seams`` is the picture of the front page: it segments the embryo of the package, on
a store in a temporary folder, which takes half a minute. ``symptoms`` shows it with bad settings,
and ``synthesis`` shows synthetic volumes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Ellipse, FancyArrowPatch, Rectangle
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter

from embedseg_large.clustering.cluster import cluster
from embedseg_large.data import copy_demo, load_demo
from embedseg_large.pictures import palette
from embedseg_large.segmentation.segment import segment
from embedseg_large.synthesis import SynthesisSettings, draw_volume
from embedseg_large.testing import embedding_of, render, synthetic_embryo

IMAGES = Path(__file__).parent / "images"
TILE = 64  # of the front page's picture, so that its seams run through the embryo
CELLS = ("#2aa198", "#d0679d", "#e0a030", "#7a6fd0", "#5a9e4b", "#d0644f")


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of one theme."""

    ink: str
    faint: str
    core: str
    warn: str


LIGHT = Palette(ink="#20262e", faint="#7d8794", core="#1b7f78", warn="#c2410c")
DARK = Palette(ink="#e6eaf0", faint="#8e99a8", core="#4fc3b8", warn="#fb923c")


# Parts -------------------------------------------------------------------------------------------


def canvas(panels: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels side by side that have neither axes nor ground."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for ax in axes:
        ax.set_axis_off()
        ax.set_aspect("equal")
    return figure, list(axes)


def write(ax: Axes, x: float, y: float, text: str, colour: str, **more: Any) -> None:
    """Write centred text."""
    ax.text(x, y, text, **{"color": colour, "ha": "center", "va": "center", "size": 10} | more)


def rectangle(ax: Axes, left: float, top: float, width: float, height: float, **style: Any) -> None:
    """Draw a rectangle; lines only, where no facecolor is given."""
    ax.add_patch(Rectangle((left, top), width, height, **{"facecolor": "none"} | style))


def cell(ax: Axes, x: float, y: float, width: float, height: float, colour: str) -> None:
    """Draw a cell."""
    ax.add_patch(Ellipse((x, y), width, height, facecolor=colour, alpha=0.75, lw=0))


def arrow(ax: Axes, start: Sequence[float], stop: Sequence[float], colour: str) -> None:
    """Draw an arrow."""
    shape = FancyArrowPatch(
        tuple(start), tuple(stop), arrowstyle="-|>", mutation_scale=14, color=colour, lw=1.4
    )
    ax.add_patch(shape)


def span(ax: Axes, limits: tuple[float, float, float, float]) -> None:
    """Set what a panel shows: left, right, bottom, top; y points down as in an image."""
    ax.set(xlim=limits[:2], ylim=limits[2:])


def coloured(labels: NDArray[Any], ground: str) -> NDArray[np.float64]:
    """Return labels as colours."""
    from matplotlib.colors import to_rgb

    table = np.array([to_rgb(CELLS[n % len(CELLS)]) for n in range(int(labels.max()) + 1)])
    table[0] = to_rgb(ground)
    painted: NDArray[np.float64] = table[labels]
    return painted


# Figures -----------------------------------------------------------------------------------------


def embedding(colours: Palette) -> Figure:
    """Image, offsets, seediness and clusters of a few drawn cells."""
    labels = synthetic_embryo((64, 64), n_objects=12, diameter=18, seed=5)
    image = render(labels, seed=3)
    predicted = embedding_of(labels, noise=1.0)
    found = cluster(predicted, min_object_size=20)
    figure, axes = canvas(4, 8.6, 2.5)
    axes[0].imshow(image, cmap="gray")
    axes[1].imshow(image, cmap="gray", vmax=2.2 * image.max())
    at = np.mgrid[2:64:4, 2:64:4].reshape(2, -1)
    at = at[:, labels[tuple(at)] > 0]
    axes[1].quiver(
        *at[::-1],
        *predicted.offsets[::-1, *at],
        color=[CELLS[n % len(CELLS)] for n in labels[tuple(at)]],
        angles="xy",
        scale_units="xy",
        scale=1,
        width=0.008,
    )
    axes[2].imshow(predicted.seeds, cmap="magma", vmin=0, vmax=1)
    axes[3].imshow(coloured(found, "#0c0d12"))
    titles = ("image", "offsets point at centres", "seediness", "clusters")
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title, color=colours.ink, size=11)
    return figure


def stages(colours: Palette) -> Figure:
    """What happens to a volume: predict, cluster, check, finish."""
    figure, axes = canvas(4, 8.6, 2.9)
    rng = np.random.default_rng(4)
    cells = [(3, 3), (7.6, 2.4), (6, 6.1), (2.3, 8.1), (9.6, 8.4), (10, 5.2), (5.4, 10)]
    sizes = rng.uniform(1.9, 2.6, (len(cells), 2))
    for number, ax in enumerate(axes):
        span(ax, (-0.4, 12.4, 15.6, -2.2))
        for k, ((x, y), (w, h)) in enumerate(zip(cells, sizes, strict=True)):
            cell(ax, x, y, w, h, colours.faint if number < 1 else CELLS[k % 6])
        rectangle(ax, 0, 0, 12, 12, edgecolor=colours.ink, lw=1.2)
        if number < 3:
            style = {"color": colours.faint, "lw": 1, "ls": "--"}
            for cut in (4, 8) if number == 0 else (6,):
                ax.plot([cut, cut], [0, 12], **style)
                ax.plot([0, 12], [cut, cut], **style)
    rectangle(axes[0], 4, 4, 4, 4, edgecolor=colours.core, lw=2.2)
    rectangle(axes[0], 3, 3, 6, 6, edgecolor=colours.core, lw=1, ls=":")
    rectangle(axes[1], 0, 0, 6, 6, edgecolor=colours.core, lw=2.2)
    rectangle(axes[1], 0, 0, 8.2, 8.2, edgecolor=colours.core, lw=1, ls=":")
    for x, y, w, h in ((5.6, 0, 0.8, 12), (0, 5.6, 12, 0.8)):
        rectangle(axes[2], x, y, w, h, facecolor=colours.warn, alpha=0.35, lw=0)
    for k, (x, y) in enumerate(sorted(cells, key=lambda c: (c[1], c[0])), 1):
        write(axes[3], x, y, str(k), colours.ink, weight="bold", size=9)
    titles = ("1  predict", "2  cluster", "3  check", "4  finish")
    under = (
        "core + context\nthrough the network",
        "core + halo\nof predictions",
        "both sides of\nevery seam agree",
        "ids in the order\nof the seeds",
    )
    for ax, title, line in zip(axes, titles, under, strict=True):
        write(ax, 6, -1.2, title, colours.ink, weight="bold", size=11)
        write(ax, 6, 14, line, colours.faint, size=9)
    return figure


def names(colours: Palette) -> Figure:
    """Why neighbours call an object the same."""
    figure, axes = canvas(2, 9, 3.6)
    for side, ax in enumerate(axes):
        span(ax, (-1, 21, 13.2, -2.4))
        cell(ax, 10.6, 6, 6.4, 4.6, CELLS[0])
        cell(ax, 3.6, 3.2, 4, 3.4, CELLS[1] if side == 0 else colours.faint)
        cell(ax, 17.3, 8.6, 4, 4, colours.faint if side == 0 else CELLS[2])
        left = 0 if side == 0 else 10
        halo = 0 if side == 0 else 5
        rectangle(ax, 0, 0, 20, 12, edgecolor=colours.faint, lw=0.8)
        rectangle(ax, left, 0, 10, 12, edgecolor=colours.core, lw=2.2)
        rectangle(ax, halo, 0, 15, 12, edgecolor=colours.core, lw=1, ls=":")
        ax.plot([11.6], [5.4], marker="*", ms=13, color=colours.ink)
        write(ax, 12.1, 6.9, "4711", colours.ink, size=9, weight="bold")
        write(ax, left + 5, 11.2, "core", colours.core, size=9)
        write(ax, 12.5 if side == 0 else 7.5, 11.2, "halo", colours.core, size=9)
        write(ax, 10, -1.2, f"what the {('left', 'right')[side]} tile sees", colours.ink, size=11)
    return figure


def certainty(colours: Palette) -> Figure:
    """What a tile can be sure of."""
    figure, (ax,) = canvas(1, 7.4, 3.9)
    span(ax, (-1.2, 25, 13.6, -2))
    margin = 5
    rectangle(ax, 0, 0, 17, 12, edgecolor=colours.core, lw=1, ls=":")
    rectangle(ax, 0, 0, 10, 12, edgecolor=colours.core, lw=2.2)
    rectangle(ax, 17 - margin, 0, margin, 12, facecolor=colours.warn, alpha=0.18, lw=0)
    places = [(3, 3, 0), (4, 9, 0), (8.6, 5.6, 0), (11.6, 9.6, 1), (14.6, 4, 1), (19.6, 5, 2)]
    for k, (x, y, kind) in enumerate(places):
        cell(ax, x, y, 3.6, 3, (CELLS[k % 4], colours.warn, colours.faint)[kind])
        ax.plot([x], [y], marker="*", ms=10, color=colours.ink)
    arrow(ax, (19.6, 5), (15.9, 4.3), colours.faint)
    ax.add_patch(Circle((15.9, 4.3), 1.5, fill=False, ec=colours.faint, ls="--", lw=1))
    write(ax, 5, -1, "core: what the tile writes", colours.core, size=10)
    write(ax, 13.6, -1, "halo", colours.core, size=10)
    write(ax, 21.4, -1, "not seen", colours.faint, size=10)
    write(ax, 14.5, 12.9, "reach + bandwidth", colours.warn, size=9.5)
    write(ax, 21.4, 8.2, "an unseen seed\nmay claim voxels here", colours.faint, size=8.5)
    return figure


FIGURES: dict[str, Callable[[Palette], Figure]] = {
    "embedding": embedding,
    "stages": stages,
    "names": names,
    "certainty": certainty,
}


def seams() -> Figure:
    """The embryo of the package, its labels, and where the tiles met that made them."""
    with TemporaryDirectory() as folder:
        store = copy_demo(Path(folder) / "embryo.ome.zarr")
        found = segment(
            store.image, "nuclei-3d", tta="none", cluster_tile=(TILE,) * 3
        ).labels.compute()
    demo = load_demo()
    high = np.percentile(demo.image, 99.8)
    figure, axes = canvas(3, 12, 3.95)
    figure.patch.set(alpha=1, facecolor="#0b0d12")
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.13)
    z, x = 65, 122
    planes = ((z,), (z,), (slice(None), slice(None), x))
    for number, (ax, plane) in enumerate(zip(axes, planes, strict=True)):
        grey = np.clip(demo.image[plane] / high, 0, 1) ** 0.75
        ax.imshow(over(grey, found[plane]) if number else grey, cmap="gray", vmin=0, vmax=1)
        if number:
            cut_lines(ax, grey.shape)
        if number == 2:  # planes lie farther apart than pixels
            ax.set_aspect(demo.voxel_size[0] / demo.voxel_size[1])
    titles = ("DAPI, one plane", f"{found.max()} nuclei; dashed: seams of tiles", "from the side")
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title, color="#c9d1dc", size=11)
    return figure


SYMPTOMS: dict[str, dict[str, Any]] = {
    "good": {},
    "missed: seed 0.96": {"seed": 0.96},
    "split: diameter 6 stated": {"object_diameter": 6},
    "merged: diameter 36 stated": {"object_diameter": 36},
    "too thin: margin 0.9": {"margin": 0.9},
}


def symptoms() -> Figure:
    """A plane of the embryo of the package, segmented well and with four bad settings."""
    demo = load_demo()
    plane = (45, slice(15, 105), slice(48, 136))
    grey = np.clip(demo.image[plane] / np.percentile(demo.image, 99.8), 0, 1) ** 0.75
    figure, axes = canvas(len(SYMPTOMS), 12, 2.75)
    figure.patch.set(alpha=1, facecolor="#0b0d12")
    for ax, (title, options) in zip(axes, SYMPTOMS.items(), strict=True):
        with TemporaryDirectory() as folder:
            store = copy_demo(Path(folder) / "embryo.ome.zarr")
            found = segment(store.image, "nuclei-3d", tta="none", **options).labels.compute()
        ax.imshow(over(grey, found[plane]), vmin=0, vmax=1)
        ax.set_title(title, color="#c9d1dc", size=11)
    return figure


def synthesis() -> Figure:
    """Twenty-four synthetic volumes: the fullest plane of each, and the outlines of its labels."""
    settings = SynthesisSettings()
    figure = Figure(figsize=(12, 9.1), layout="constrained")
    figure.patch.set_facecolor("#0b0d12")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    for number, ax in enumerate(figure.subplots(6, 4).ravel()):
        volume = draw_volume(settings, 0, number)
        low, high = np.percentile(volume.image, (1, 99.8))
        z = int(np.count_nonzero(volume.labels, axis=(1, 2)).argmax())
        grey = np.clip((volume.image[z] - low) / (high - low), 0, 1) ** 0.8
        labels = volume.labels[z]
        rgb = np.repeat(grey[..., None], 3, axis=-1)
        edge = (labels > 0) & (maximum_filter(labels, 3) != minimum_filter(labels, 3))
        outlined = rgb.copy()
        outlined[edge] = palette(int(volume.labels.max()))[labels[edge]]
        ax.imshow(np.concatenate([rgb, outlined], axis=1), interpolation="nearest")
        ax.axvline(labels.shape[1] - 0.5, color="#0b0d12", lw=1)
        ax.set_axis_off()
    return figure


def over(grey: NDArray[np.float64], labels: NDArray[Any]) -> NDArray[np.float64]:
    """Return an image with its labels over it, outlined."""
    rgb = np.repeat(grey[..., None], 3, axis=-1)
    colours = palette(int(labels.max()))[labels]
    inside = labels > 0
    edge = inside & (maximum_filter(labels, 3) != minimum_filter(labels, 3))
    rgb[inside] = 0.5 * rgb[inside] + 0.5 * colours[inside]
    rgb[edge] = colours[edge]
    return rgb


def cut_lines(ax: Axes, shape: Sequence[int]) -> None:
    """Draw where tiles meet."""
    style = {"color": "#f2f4f8", "lw": 0.9, "ls": (0, (5, 4))}
    height, width = shape
    for at in range(TILE, width, TILE):
        ax.plot([at - 0.5] * 2, [-0.5, height - 0.5], **style)
    for at in range(TILE, height, TILE):
        ax.plot([-0.5, width - 0.5], [at - 0.5] * 2, **style)


def main(chosen: Sequence[str]) -> None:
    """Draw the figures of these names, or all."""
    # Text stays text, and nothing depends on the time: the same drawing is the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "docs", "font.family": "sans-serif"}):
        for name in [n for n in FIGURES if n in chosen or not chosen]:
            for theme, palette in (("light", LIGHT), ("dark", DARK)):
                path = IMAGES / f"{name}-{theme}.svg"
                FIGURES[name](palette).savefig(path, transparent=True, metadata={"Date": None})
    if "seams" in chosen or not chosen:
        seams().savefig(IMAGES / "seams.png", dpi=150)
    if "symptoms" in chosen or not chosen:
        symptoms().savefig(IMAGES / "symptoms.png", dpi=130)
    if "synthesis" in chosen or not chosen:
        drawn = BytesIO()
        synthesis().savefig(drawn, dpi=110)
        with Image.open(drawn) as picture:
            picture.convert("RGB").quantize(128).save(IMAGES / "synthesis.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
