"""What a network predicts, and how instances are derived from it: one module per method."""
