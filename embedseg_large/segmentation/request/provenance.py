"""Where labels come from: recorded with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from embedseg_large.runs.facts import Facts, token
from embedseg_large.runs.run_folder import Run
from embedseg_large.segmentation.intensity_field import IntensityField
from embedseg_large.volumes.intensity import IntensityRange


def provenance(
    run: Run,
    intensity: Sequence[Sequence[IntensityRange]],
    fields: Sequence[Sequence[IntensityField]],
) -> Facts:
    """All that decides the labels, as values that JSON can hold, and its token.

    Parameters
    ----------
    run
        Knows its facts.
    intensity
        What became 0 and 1, of each timepoint for each channel.
    fields
        What evened them out before, likewise.
    """
    found = [[asdict(r) for r in channels] for channels in intensity]
    ranges = found if run.facts["intensity"]["per_timepoint"] else found[0]
    evened = [[one.as_dict() for one in channels] for channels in fields]
    light: Facts = {}
    if evened and evened[0]:
        mode = run.facts["intensity"]["field"]
        same = not run.facts["intensity"]["per_timepoint"]
        light = {"intensity_field": {"mode": mode, "channels": evened[0] if same else evened}}
    return run.facts | light | {"intensity": ranges, "token": token(run.facts)}
