"""Menu group "consistency"."""

NODES = []
