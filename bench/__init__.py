"""Measurements beside other implementations, printed as ratios: `python cli.py bench [NAME]`."""
