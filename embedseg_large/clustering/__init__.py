"""Instances from spatial embeddings, by the exact greedy rule of EmbedSeg."""
