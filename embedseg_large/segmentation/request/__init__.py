"""The request, every reason to refuse it, and an estimate of its cost."""
