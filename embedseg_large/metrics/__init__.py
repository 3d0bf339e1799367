"""Comparing label volumes: how many voxels objects share, and the scores that follow."""

from embedseg_large.metrics.contingency import Contingency
from embedseg_large.metrics.scores import Score, scores

__all__ = ["Contingency", "Score", "scores"]
