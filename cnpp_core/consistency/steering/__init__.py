"""A picture moved towards its condition while it is sampled: along a gradient, or by strength."""
