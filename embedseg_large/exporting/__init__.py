"""Labels for other programs: TIFF, ImageJ ROIs, meshes."""
