"""One file per command: arguments and options, one call, and what is printed."""
