"""Messages of the engine, in the terms of the panel.

Messages of the engine recommend command-line options and rerunning a command. Here they are
rewritten to refer to the fields and buttons of the panel.
"""

from __future__ import annotations

import re

_WORDS = (
    (r"--object-diameter auto compares scales", "find the scale compares scales"),
    (r", or pass an --intensity-range", ""),
    (r"choose with --channel", "choose another model"),
    (r"write somewhere else with --output", "let TMPDIR name another folder"),
    (
        r"\. (All other tasks are finished|So many failures end a run)\. "
        r"Fix the cause and rerun the same command to resume",
        "; then try again",
    ),
    (r"finished work is kept: rerun the same command to resume", "try again"),
    (r"rerun the same command", "try again"),
    (r" \(--[^)]*\)", ""),
)
"""Patterns in messages of the engine and their replacements, applied in this order."""


def in_words_of_panel(message: str, layer: str = "the layer") -> str:
    """Return an error or a warning of the engine in one line.

    Parameters
    ----------
    message
        The message of the engine.
    layer
        Name of the processed layer; the engine calls it "the array".
    """
    text = " ".join(message.split())
    for pattern, words in _WORDS:
        text = re.sub(pattern, words, text)
    return re.sub(r"\bthe array\b", lambda _: layer, text)
