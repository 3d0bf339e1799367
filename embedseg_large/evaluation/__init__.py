"""Comparing label volumes: how many voxels objects share, and the scores that follow."""

from embedseg_large.evaluation.contingency import Contingency
from embedseg_large.evaluation.scores import Score, scores

__all__ = ["Contingency", "Score", "scores"]
