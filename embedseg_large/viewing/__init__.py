"""Looking at an image and its labels: in napari, in neuroglancer, or on a built-in page."""
