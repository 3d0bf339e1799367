"""The stages of a run as functions: predict, cluster, check, finish."""
