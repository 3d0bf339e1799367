"""Bytes that appear complete or not at all, on a disk or in a bucket."""
