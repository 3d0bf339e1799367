"""Looking at an image and its labels: in napari, in neuroglancer, or on a page of our own."""
