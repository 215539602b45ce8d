"""Immutable trees over objects: build, read, walk, diff, transfer."""
