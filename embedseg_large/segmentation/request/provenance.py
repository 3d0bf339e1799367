"""Where labels come from: recorded with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from embedseg_large.runs.run_folder import Run
from embedseg_large.segmentation.request.facts import Facts, token
from embedseg_large.volumes.intensity import IntensityRange


def provenance(run: Run, intensity: Sequence[Sequence[IntensityRange]]) -> Facts:
    """All that decides the labels, as values that JSON can hold, and its token.

    Parameters
    ----------
    run
        Knows its facts.
    intensity
        What became 0 and 1, of each timepoint for each channel.
    """
    found = [[asdict(r) for r in channels] for channels in intensity]
    ranges = found if run.facts["intensity"]["per_timepoint"] else found[0]
    return run.facts | {"intensity": ranges, "token": token(run.facts)}
