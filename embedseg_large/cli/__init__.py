"""The command line. Commands import heavy libraries only when they run."""

from __future__ import annotations


def main() -> None:
    """Entry point of ``embedseg-large``."""
    from embedseg_large.cli.app import app

    app()
