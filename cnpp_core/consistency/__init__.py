"""Does the picture follow its condition? Metrics and the cycle-consistency check."""
