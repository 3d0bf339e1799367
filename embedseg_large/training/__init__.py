"""Training: from a few annotated volumes to a model."""
