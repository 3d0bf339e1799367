"""BIOMERO calls a workflow with folders and parameters; this turns them into one command of ours.

BIOMERO (OMERO on a Slurm cluster) runs::

    wrapper.py --infolder IN --outfolder OUT --gtfolder GT --local --model nuclei-2d ... -nmc
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence


def command(arguments: Sequence[str]) -> list[str]:
    """Return the command that does what BIOMERO asks for."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=False)
    parser.add_argument("--infolder", required=True)
    parser.add_argument("--outfolder", required=True)
    parser.add_argument("--model", default="nuclei-2d")
    parser.add_argument("--channel", default="0")
    parser.add_argument("--object_diameter", default="")
    parser.add_argument("--min_object_size", type=int, default=0)
    parser.add_argument("--tta", default="none")
    given, _ = parser.parse_known_args(arguments)  # also --gtfolder, --local and -nmc
    words = ["embedseg-large", "segment", given.infolder, "--out", given.outfolder]
    words += ["--model", given.model, "--channel", given.channel, "--tta", given.tta]
    if given.object_diameter:
        words += ["--object-diameter", given.object_diameter]
    if given.min_object_size:
        words += ["--min-object-size", str(given.min_object_size)]
    return words


if __name__ == "__main__":
    sys.exit(subprocess.run(command(sys.argv[1:]), check=False).returncode)
