"""What was asked for, every reason to refuse it, and an estimate."""
