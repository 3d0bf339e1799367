"""What a network predicts, and how instances come of it: one module for each method."""
