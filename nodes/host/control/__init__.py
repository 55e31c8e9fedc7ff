"""A control inside the host: the object that travels, its runs, and what it fits."""
