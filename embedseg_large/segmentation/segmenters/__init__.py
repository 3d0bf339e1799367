"""What finds instances in a tile: our networks, or any user function."""
