"""Levels and lineage, estimate, write, merge, verify, load."""
