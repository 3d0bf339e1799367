"""Synthetic volumes: images of nuclei that were never stained, with exact labels.

A volume is a pure function of settings, a seed and its number: any worker generates the same bits,
in any order. `draw_volume` generates one, `SynthesisSettings` holds its settings, `read_settings`
reads them from a file or a short text.
"""

from embedseg_large.synthesis.reading import read_settings
from embedseg_large.synthesis.settings import SynthesisSettings
from embedseg_large.synthesis.volume import SyntheticVolume, draw_volume

__all__ = ["SynthesisSettings", "SyntheticVolume", "draw_volume", "read_settings"]
