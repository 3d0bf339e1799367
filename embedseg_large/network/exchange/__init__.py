"""Models that come from other programs or leave for them."""
