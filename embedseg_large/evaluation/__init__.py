"""Comparing label volumes: how many voxels objects share, and the scores that follow."""
