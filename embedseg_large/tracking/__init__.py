"""Labels of a time series linked into tracks."""
