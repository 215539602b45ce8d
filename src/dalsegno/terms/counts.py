"""Counts as people read them."""


def count_of(count: int, one: str, many: str = "") -> str:
    """Return `1 clone`, `2,000 clones`; `many` for words whose plural has no plain s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def count_of_entries(count: int) -> str:
    """Return `1 file or directory`, `2,000 files and directories`."""
    return count_of(count, "file or directory", "files and directories")
