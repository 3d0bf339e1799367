"""Embedded pictures of a page: a grey image with outlines on top that can be hidden.

An instance has the same colour on the whole page, determined by its index among all labels.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedseg_large.pictures import Labels, Panel, Rgb, outlines, palette

QUALITY = 80
"""Quality of WebP pictures of the image, up to 100; outlines are lossless."""
_FAINT = 0.55
"""Opacity of the neighbours of a chosen instance."""
_BOLD = 3
"""Factor by which its outline is wider."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image and the outlines over it, as data URIs."""

    grey: str
    lines: str
    width: int
    height: int
    alt: str
    """Text alternative of the picture."""


@dataclass(frozen=True, slots=True)
class Inks:
    """The colours of all instances."""

    ids: NDArray[np.uint64]
    """Ascending."""
    colours: Rgb
    """``(n + 1, 3)`` from 0 to 1; the first is the background's."""

    @classmethod
    def of(cls, ids: NDArray[np.uint64]) -> Inks:
        """Choose the colours of labels, given in ascending order."""
        return cls(ids, palette(ids.size))

    def numbers(self, labels: Labels) -> NDArray[np.intp]:
        """Number labels from 1; unknown ones are 0, like the background."""
        wanted = labels.astype(np.uint64)
        at = np.searchsorted(self.ids, wanted).clip(max=self.ids.size - 1)
        numbers: NDArray[np.intp] = np.where(self.ids[at] == wanted, at + 1, 0)
        return numbers


def overlay(
    plane: Labels, panel: Panel, inks: Inks, chosen: int | None = None, *, width: int = 1
) -> NDArray[np.uint8]:
    """Draw outlines on a transparent ground.

    Parameters
    ----------
    plane
        Labels ``(rows, columns)``.
    panel
        The panel in which they are shown.
    inks
        The colours.
    chosen
        A label to draw bold, with faint neighbours; None: all equal.
    width
        Width of outlines in pixels; they lie inside the objects.

    Returns
    -------
    uint8 ``(height, width, 4)`` of the panel.
    """
    rows, columns = (
        ((np.arange(m) + 0.5) * n / m).astype(np.intp)
        for n, m in zip(plane.shape, (panel.height, panel.width), strict=True)
    )
    labels = plane[np.ix_(rows, columns)]
    numbers = inks.numbers(labels)
    opacity = outlines(numbers, width) * (1.0 if chosen is None else _FAINT)
    if chosen is not None:
        inside = labels == chosen
        opacity = np.where(inside, outlines(inside.astype(np.uint8), _BOLD * width), opacity)
    drawn = np.concatenate([inks.colours[numbers], opacity[..., np.newaxis]], axis=2)
    drawn[opacity == 0] = 0  # smaller files
    pixels: NDArray[np.uint8] = np.rint(255 * drawn).astype(np.uint8)
    return pixels


def grey_pixels(grey: Rgb) -> NDArray[np.uint8]:
    """Turn what `pictures.grey_of` drew into bytes."""
    return np.rint(255 * np.clip(grey, 0, 1)).astype(np.uint8)


def picture(grey: NDArray[np.uint8], lines: NDArray[np.uint8], alt: str) -> Picture:
    """Pack an image ``(height, width, 3)`` and outlines ``(height, width, 4)``."""
    import imagecodecs

    height, width = grey.shape[:2]
    return Picture(
        grey=_uri(imagecodecs.webp_encode(grey, level=QUALITY)),
        lines=_uri(imagecodecs.webp_encode(lines, lossless=True)),
        width=width,
        height=height,
        alt=alt,
    )


def _uri(webp: bytes | bytearray) -> str:
    return "data:image/webp;base64," + b64encode(webp).decode()
