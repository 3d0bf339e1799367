"""Synthetic embryos, and a fake network that knows the truth, for tests.

`strategies` is not imported here: it alone needs hypothesis.
"""

from embedseg_large.testing.lazy import lazy_embryo
from embedseg_large.testing.objects import Flaws, Objects
from embedseg_large.testing.oracle import OracleNetwork
from embedseg_large.testing.synthetic import embedding_of, render, synthetic_embryo

__all__ = [
    "Flaws",
    "Objects",
    "OracleNetwork",
    "embedding_of",
    "lazy_embryo",
    "render",
    "synthetic_embryo",
]
