"""Bring another house up to date: look, catch up, merge, release, follow, move, seed, check."""
