"""Measurements of instances: sums over voxels that add up over boxes, and derived values."""
