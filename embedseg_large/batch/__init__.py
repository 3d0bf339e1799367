"""Many images, one after the other: folders, plates, files of several series."""
