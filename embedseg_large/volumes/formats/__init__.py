"""Readers of image files, one per format."""
