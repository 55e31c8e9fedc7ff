"""A world of coloured shapes, small enough to learn on a CPU, that shows the whole cycle."""
