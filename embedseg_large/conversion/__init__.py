"""Conversion of other formats to OME-Zarr: planning, copying, resuming."""
