"""Images and labels on disk: reading, statistics, writing."""
