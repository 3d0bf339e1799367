"""The network: architecture, prediction with test-time augmentation, and model files."""
