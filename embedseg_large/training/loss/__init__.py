"""The loss of EmbedSeg and its parts."""
