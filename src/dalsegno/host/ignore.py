"""What a scan leaves out: patterns, `.dalignore` files, caches, other file systems, large or nodump files."""

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dalsegno.host.patterns import WILD_BYTES_MAX, WILD_LINES_MAX, Patterns, read_lines, read_words
from dalsegno.terms.errors import BadInput
from dalsegno.terms.sizes import KIB, MIB

IGNORE_FILE: Final = b".dalignore"
CACHE_TAG_FILE: Final = b"CACHEDIR.TAG"
CACHE_TAG_SIGNATURE: Final = b"Signature: 8a477f597d28d172789f06886806bc55"
IGNORE_FILE_BYTES_MAX: Final = 1 * MIB
PROBLEMS_TOLD_MAX: Final = 100
"""Lines of one ignore file that are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What to leave out; the default leaves out nothing."""

    patterns: tuple[str, ...] = ()
    """Like the lines of a .gitignore at the root, but for comments: each is a pattern."""
    own: tuple[bytes, ...] = ()
    """Directories, by their path from the root, that are left out whatever patterns say: the program's own."""
    ignore_files: bool = False
    """Obey `.dalignore` files in the tree, each beneath its own directory; deeper ones win."""
    cache_tags: bool = False
    """Keep of a directory with a valid CACHEDIR.TAG only itself and the tag."""
    one_file_system: bool = False
    """Keep directories on another device than the root, but not what is in them."""
    larger_than: int | None = None
    """Leave out files of more bytes than this."""
    nodump: bool = False
    """Leave out what has the nodump flag (chattr +d)."""

    @property
    def by_name(self) -> bool:
        """Tell whether names have to be matched at all."""
        return bool(self.patterns) or self.ignore_files or self.cache_tags


@dataclass(frozen=True, slots=True, kw_only=True)
class IgnoreProblem:
    """A line of an ignore file that matches nothing, or a whole file that is not obeyed; never a failure."""

    path: bytes
    """The ignore file; nothing for a pattern that the volume keeps."""
    line: int
    """From 1; 0 for the whole file."""
    reason: str

    def __str__(self) -> str:
        """Return it in words, without the path."""
        return f"line {self.line}: {self.reason}" if self.line else self.reason


Tell = Callable[[IgnoreProblem], None]


class Scope:
    """The patterns in force in one directory: (patterns, length of the path they are relative to), shallowest first."""

    __slots__ = ("_specs",)

    def __init__(self, specs: tuple[tuple[Patterns, int], ...] = ()) -> None:
        self._specs = specs

    @property
    def has_patterns(self) -> bool:
        """Whether anything could be left out here at all."""
        return bool(self._specs)

    def excludes(self, directory: bytes, name: bytes, *, is_directory: bool) -> bool:
        """Tell whether `name` in `directory` (relative to the scan's root) is left out."""
        for patterns, skip in reversed(self._specs):
            path = b""
            if patterns.has_paths:
                path = directory[skip:] + b"/" + name if len(directory) > skip else name
            excluded = patterns.excludes(name, path, is_directory=is_directory)
            if excluded is not None:
                return excluded
        return False

    def beneath(self, patterns: Patterns, directory: bytes) -> "Scope":
        """Return this scope with the patterns of an ignore file in `directory`."""
        if not patterns.count:
            return self
        return Scope((*self._specs, (patterns, len(directory) + 1 if directory else 0)))


def check_pattern(pattern: str) -> None:
    """Refuse what a person gives as a pattern and can match nothing; BadInput names it and says why."""
    patterns = read_words([os.fsencode(pattern)])
    for problem in patterns.problems:
        raise BadInput(f"pattern {pattern!r}: {problem.reason}, so it would leave out nothing")
    if "\0" in pattern:
        raise BadInput(f"pattern {pattern!r}: no name has a zero byte")


def open_scope(rules: Rules, tell: Tell) -> Scope:
    """Return the scope at the root."""
    patterns = read_words(map(os.fsencode, rules.patterns))
    for problem in patterns.problems:
        shown = problem.text.decode(errors="backslashreplace")
        tell(IgnoreProblem(path=b"", line=0, reason=f"pattern {shown!r} leaves out nothing: {problem.reason}"))
    return Scope().beneath(patterns, b"")


def read_start(directory: int, name: bytes, limit: int) -> bytes:
    """Return up to `limit` bytes of a regular file; OSError also when it is none."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        data = b""
        while len(data) < limit and (piece := os.read(fd, limit - len(data))):
            data += piece
        return data
    finally:
        os.close(fd)


def is_cache(directory: int) -> bool:
    """Tell whether a directory that holds a CACHEDIR.TAG is a tagged cache."""
    try:
        return read_start(directory, CACHE_TAG_FILE, len(CACHE_TAG_SIGNATURE)) == CACHE_TAG_SIGNATURE
    except OSError:
        return False


def enter_scope(
    rules: Rules, scope: Scope, directory: int, path: bytes, names: list[bytes], tell: Tell
) -> tuple[Scope, bool]:
    """Return the scope within a directory, and whether it is a tagged cache (of which only the tag is kept)."""
    if rules.cache_tags and CACHE_TAG_FILE in names and is_cache(directory):
        return scope, True
    if not rules.ignore_files or IGNORE_FILE not in names:
        return scope, False
    place = path + b"/" + IGNORE_FILE if path else IGNORE_FILE
    try:
        data = read_start(directory, IGNORE_FILE, IGNORE_FILE_BYTES_MAX + 1)
    except OSError as error:
        # As git does, no symlink is followed: it would make rules of any file of the host.
        reason = "a symbolic link" if error.errno == errno.ELOOP else error.strerror or str(error)
        tell(IgnoreProblem(path=place, line=0, reason=f"not obeyed: {reason}"))
        return scope, False
    if len(data) > IGNORE_FILE_BYTES_MAX:
        tell(IgnoreProblem(path=place, line=0, reason=f"not obeyed: larger than {IGNORE_FILE_BYTES_MAX // MIB} MiB"))
        return scope, False
    patterns = read_lines(data)
    for problem in patterns.problems[:PROBLEMS_TOLD_MAX]:
        tell(IgnoreProblem(path=place, line=problem.line, reason=f"matches nothing: {problem.reason}"))
    if len(patterns.problems) > PROBLEMS_TOLD_MAX:
        more = len(patterns.problems) - PROBLEMS_TOLD_MAX
        tell(IgnoreProblem(path=place, line=0, reason=f"{more:,} more of its lines match nothing"))
    if patterns.refused_from:
        reason = (
            f"from here on patterns with wildcards are not obeyed: more than {WILD_LINES_MAX:,}, or more than "
            f"{WILD_BYTES_MAX // KIB} KiB of them"
        )
        tell(IgnoreProblem(path=place, line=patterns.refused_from, reason=reason))
    return scope.beneath(patterns, path), False
