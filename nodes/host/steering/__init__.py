"""Nodes that look at the picture while the host samples it, and may change what follows."""
