"""``python -m embedseg_large``: the command line, for ``torchrun -m embedseg_large train ...``."""

from embedseg_large.cli import main

if __name__ == "__main__":
    main()
