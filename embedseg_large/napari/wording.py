"""What the engine says, in the words of the panel.

Messages of the engine advise options of the command line, which has more of them than the panel,
and to run a command again. Here the same advice names the fields and buttons that there are.
"""

from __future__ import annotations

import re

_WORDS = (
    (r"--object-diameter auto compares scales", "find the scale compares scales"),
    (r", or give an --intensity-range", ""),
    (r"choose with --channel", "choose another model"),
    (r"write somewhere else with --output", "let TMPDIR name another folder"),
    (r"\. The rest is done: mend this, and run the same command", "; then try"),
    (r"what is done is kept, the same command goes on", "try again"),
    (r"run the same command again", "try again"),
    (r" \(--[^)]*\)", ""),
)
"""Patterns of the engine's, and what to say in their place; the first ones first."""


def in_words_of_panel(message: str, layer: str = "the layer") -> str:
    """Say in one line what an error or a warning of the engine says.

    Parameters
    ----------
    message
        The engine's.
    layer
        Name of the layer that was worked on; the engine knows it as "the array".
    """
    text = " ".join(message.split())
    for pattern, words in _WORDS:
        text = re.sub(pattern, words, text)
    return re.sub(r"\bthe array\b", lambda _: layer, text)
