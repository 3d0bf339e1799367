"""Training data: images and masks, crops, augmentation, batches."""
