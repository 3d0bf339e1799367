"""Images of any size, read lazily; multiscale groups written region by region."""
