"""What each instance is like: sums over its voxels that add up over boxes, and what follows."""
