"""From an image to its labels: one pipeline, serial or on a cluster."""
