"""Thresholds and knobs that suit a model, found on annotated images."""
