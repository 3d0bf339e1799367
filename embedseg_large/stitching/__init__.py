"""One global labelling out of tiles that were clustered on their own.

Nothing is merged. An instance is named by the global index of its seed voxel, so that every tile
that sees it well calls it the same. What is left to do is to check that, and to number the names.
"""
