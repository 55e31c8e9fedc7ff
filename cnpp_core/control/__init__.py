"""Residuals, and the scales that shape them block by block."""
