"""Runs that cover a whole volume: the same stages one after another, or on a Dask cluster."""
