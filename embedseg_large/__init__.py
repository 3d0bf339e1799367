"""Every nucleus or cell of a volume far larger than memory, as one label volume."""
