"""Bundled models: one safetensors file each, loaded by its name without suffix."""
