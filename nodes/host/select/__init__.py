"""Many pictures tried or given, and the best of them."""
