"""Annotators in the host: where their weights lie, and their networks as models of the host."""
