"""How a volume is cut into tiles."""
