"""One HTML file of a run: what was found, what to look at again, and how it was made."""
