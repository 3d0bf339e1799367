"""Images of other formats become OME-Zarr: planning, copying, resuming."""
