"""What a network predicts, and how instances are made from it: one module per method."""
