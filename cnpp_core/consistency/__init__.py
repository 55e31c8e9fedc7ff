"""Does the picture follow the condition? Metrics, and the check that joins them to an annotator."""
