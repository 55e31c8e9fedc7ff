"""From picture to condition: one module per kind of condition."""
