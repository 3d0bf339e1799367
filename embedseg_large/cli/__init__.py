"""The command line. Heavy libraries are imported by the commands that need them, when they run."""

from __future__ import annotations


def main() -> None:
    """Entry point of ``embedseg-large``."""
    from embedseg_large.cli.app import app

    app()
