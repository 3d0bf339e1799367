"""Tasks for Fractal, which runs each of them for one image: a field of a plate, or any OME-Zarr."""
