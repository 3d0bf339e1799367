"""Names, formats and versions of the files between stages."""
