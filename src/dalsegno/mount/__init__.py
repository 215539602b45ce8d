"""Mounts: what the kernel asks of a directory, answered from trees (docs/guides/old-files.md)."""
