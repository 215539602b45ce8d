"""What revisions say they do not cover: lists kept short, and what is said of two that become one."""

from collections.abc import Iterable
from typing import Final

from dalsegno.formats.objects import Coverage
from dalsegno.terms.sizes import KIB

PATHS_MAX: Final = 1000
PATHS_BYTES_MAX: Final = 256 * KIB


def bounded(paths: Iterable[bytes]) -> tuple[list[bytes], bool]:
    """Return paths sorted, each once, and whether directories had to stand for some: the deepest ones first."""
    kept = set(paths)
    is_coarse = False
    while len(kept) > PATHS_MAX or sum(map(len, kept)) > PATHS_BYTES_MAX:
        is_coarse = True
        deepest = max(path.count(b"/") for path in kept)
        if not deepest:
            return [b""], True
        kept = {path.rpartition(b"/")[0] if path.count(b"/") == deepest else path for path in kept}
    return sorted(kept), is_coarse


def join_coverage(one: Coverage | None, other: Coverage | None) -> Coverage | None:
    """Return what a merge says: what either side left out; the order of the two decides that of the patterns."""
    if one is None or other is None or one == other:
        return other if one is None else one
    unreadable, are_coarse = bounded([*one.unreadable, *other.unreadable])
    not_entered, is_coarse = bounded([*one.not_entered, *other.not_entered])
    limits = [each for each in (one.larger_than, other.larger_than) if each is not None]
    return Coverage(
        patterns=[*one.patterns, *(each for each in other.patterns if each not in one.patterns)],
        ignore_files=one.ignore_files or other.ignore_files,
        cache_tags=one.cache_tags or other.cache_tags,
        larger_than=min(limits, default=None),
        nodump=one.nodump or other.nodump,
        one_file_system=one.one_file_system or other.one_file_system,
        unreadable=unreadable,
        not_entered=not_entered,
        is_coarse=one.is_coarse or other.is_coarse or are_coarse or is_coarse,
    )
