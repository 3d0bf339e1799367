"""Label volumes of a store: targets, publication, levels, instances and tables."""
