"""What a backup did not look at, as its revision says it: a restore that deletes does not take it for gone."""

import os
from collections.abc import Sequence

from dalsegno.formats.objects import Coverage
from dalsegno.host.ignore import Rules
from dalsegno.trees.coverage import bounded


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
