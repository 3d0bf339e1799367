"""One global labelling from tiles that were clustered independently.

Nothing is merged. An instance is named by the global index of its seed voxel, so that every tile
that sees all of it finds the same name. It remains to verify this, and to number the names.
"""
