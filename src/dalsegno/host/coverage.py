"""What a backup did not look at, as its revision says it: a restore that deletes does not take it for gone."""

import os
from collections.abc import Iterable, Sequence
from typing import Final

from dalsegno.formats.objects import Coverage
from dalsegno.host.ignore import Rules
from dalsegno.terms.sizes import KIB

PATHS_MAX: Final = 1000
PATHS_BYTES_MAX: Final = 256 * KIB


def coverage_of(rules: Rules, unreadable: Sequence[bytes], not_entered: Sequence[bytes]) -> Coverage | None:
    """Return what a revision says of what was left out; None when nothing was."""
    paths, are_coarse = bounded(unreadable)
    entered, is_coarse = bounded(not_entered)
    coverage = Coverage(
        patterns=[os.fsencode(pattern) for pattern in rules.patterns],
        ignore_files=rules.ignore_files,
        cache_tags=rules.cache_tags,
        larger_than=rules.larger_than,
        nodump=rules.nodump,
        one_file_system=rules.one_file_system,
        unreadable=paths,
        not_entered=entered,
        is_coarse=are_coarse or is_coarse,
    )
    return None if coverage == Coverage() else coverage


def rules_of_coverage(coverage: Coverage) -> Rules:
    """Return the rules that a backup obeyed."""
    return Rules(
        patterns=tuple(os.fsdecode(pattern) for pattern in coverage.patterns),
        ignore_files=coverage.ignore_files,
        cache_tags=coverage.cache_tags,
        larger_than=coverage.larger_than,
        nodump=coverage.nodump,
        one_file_system=coverage.one_file_system,
    )


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
