"""Several methods on the same images at equal cost: which one is best."""
