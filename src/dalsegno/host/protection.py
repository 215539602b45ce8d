"""What a restore that deletes leaves alone: what the backup left out or could not read, and the program's own.

Patterns hold by path from the root of the tree, `.dalignore` files as they are in the backup.
"""

import os
import stat as modes
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from dalsegno.formats.objects import Coverage
from dalsegno.host import attributes
from dalsegno.host.coverage import rules_of_coverage
from dalsegno.host.ignore import CACHE_TAG_FILE, Rules, Scope, is_cache, open_scope
from dalsegno.host.patterns import read_lines

LISTED_MAX: Final = 1000

BY_RULES: Final = "left out by the backup's rules"
LARGER: Final = "larger than what the backup took"
NODUMP: Final = "has the nodump flag"
IN_CACHE: Final = "in a cache that the backup left out"
SOCKET: Final = "a socket, which no backup holds"
UNREADABLE: Final = "could not be read by the backup"
NOT_ENTERED: Final = "not looked into by the backup"
OWN: Final = "the program's own"


@dataclass(slots=True)
class Protected:
    """What was not deleted, and why: counted by reason, the first of it listed."""

    counts: Counter[str] = field(default_factory=Counter)
    listed: list[tuple[bytes, str]] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Return how many there are."""
        return sum(self.counts.values())

    def add(self, path: bytes, reason: str) -> None:
        """Note one."""
        self.counts[reason] += 1
        if len(self.listed) < LISTED_MAX:
            self.listed.append((path, reason))


class Protection:
    """What one revision protects; with `delete_excluded` only the program's own."""

    def __init__(self, coverage: Coverage | None, own: Iterable[bytes], *, delete_excluded: bool) -> None:
        known = coverage if coverage is not None and not delete_excluded else Coverage()
        self._rules: Rules = rules_of_coverage(known)
        self._is_bare = delete_excluded
        self._marks = {
            **dict.fromkeys(known.not_entered, NOT_ENTERED),
            **dict.fromkeys(known.unreadable, UNREADABLE),
            **dict.fromkeys(own, OWN),
        }

    @property
    def ignore_files(self) -> bool:
        """Whether `.dalignore` files of the tree count."""
        return self._rules.ignore_files

    def top(self) -> Scope:
        """Return the patterns in force at the root."""
        return open_scope(self._rules, lambda problem: None)

    @staticmethod
    def beneath(scope: Scope, directory: bytes, ignore_file: bytes) -> Scope:
        """Return the patterns in force in a directory whose `.dalignore` has this content."""
        return scope.beneath(read_lines(ignore_file), directory)

    def why(self, fd: int, scope: Scope, directory: bytes, name: bytes, stat: os.stat_result) -> str:
        """Return why a name in an open directory stays, or nothing; `scope` is that of the directory."""
        path = directory + b"/" + name if directory else name
        for mark in _ways(path):
            reason = self._marks.get(mark)
            if reason is not None:
                return reason
        if self._is_bare:
            return ""
        mode, rules = stat.st_mode, self._rules
        if modes.S_ISSOCK(mode):
            return SOCKET
        if scope.has_patterns and scope.excludes(directory, name, is_directory=modes.S_ISDIR(mode)):
            return BY_RULES
        if rules.larger_than is not None and modes.S_ISREG(mode) and stat.st_size > rules.larger_than:
            return LARGER
        if rules.nodump and _has_nodump(fd, name, mode):
            return NODUMP
        if rules.cache_tags and name != CACHE_TAG_FILE and is_cache(fd):
            return IN_CACHE
        return ""


def _ways(path: bytes) -> Iterable[bytes]:
    """Yield a path and all above it, the root last."""
    while path:
        yield path
        path = path.rpartition(b"/")[0]
    yield b""


def _has_nodump(directory: int, name: bytes, mode: int) -> bool:
    if not (modes.S_ISREG(mode) or modes.S_ISDIR(mode)):
        return False
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return False
    try:
        return bool((attributes.get_flags(fd) or 0) & attributes.FLAG_NODUMP)
    finally:
        os.close(fd)
