"""One HTML file about a run: results, instances to check, and how they were made."""
