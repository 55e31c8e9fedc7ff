"""Training a ControlNet inside the host, with clones of what is in the graph."""
