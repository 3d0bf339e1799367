"""Bytes that appear whole or not at all, on a disk or in a bucket."""
