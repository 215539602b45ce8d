"""Names over revisions: heads, clones, holds, dump records."""
