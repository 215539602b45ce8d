"""What a scan leaves out: patterns, `.dalignore` files, caches, other file systems, large or nodump files."""

import os
from dataclasses import dataclass
from typing import Final

from pathspec import GitIgnoreSpec

from dalsegno.terms.errors import BadInput

IGNORE_FILE: Final = b".dalignore"
CACHE_TAG_FILE: Final = b"CACHEDIR.TAG"
CACHE_TAG_SIGNATURE: Final = b"Signature: 8a477f597d28d172789f06886806bc55"
IGNORE_FILE_BYTES_MAX: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What to leave out; the default leaves out nothing."""

    patterns: tuple[str, ...] = ()
    """Like the lines of a .gitignore at the root."""
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


class Scope:
    """The patterns in force in one directory: (spec, length of the path it is relative to), shallowest first."""

    __slots__ = ("_specs",)

    def __init__(self, specs: tuple[tuple[GitIgnoreSpec, int], ...] = ()) -> None:
        self._specs = specs

    @property
    def has_patterns(self) -> bool:
        """Whether anything could be left out here at all."""
        return bool(self._specs)

    def excludes(self, path: bytes, *, is_directory: bool) -> bool:
        """Tell whether `path` (relative to the scan's root) is left out."""
        for spec, skip in reversed(self._specs):
            text = os.fsdecode(path[skip:]) + ("/" if is_directory else "")
            included = spec.check_file(text).include
            if included is not None:
                return included
        return False

    def beneath(self, lines: list[str], path: bytes) -> "Scope":
        """Return this scope with the lines of an ignore file in the directory `path`."""
        return Scope((*self._specs, (compile_patterns(lines), len(path) + 1 if path else 0)))


def compile_patterns(lines: list[str]) -> GitIgnoreSpec:
    """Return the compiled form of gitignore lines."""
    try:
        return GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        raise BadInput(f"ignore pattern: {error}") from None


def open_scope(rules: Rules) -> Scope:
    """Return the scope at the root."""
    if not rules.patterns:
        return Scope()
    return Scope(((compile_patterns(list(rules.patterns)), 0),))


def read_start(directory: int, name: bytes, limit: int) -> bytes | None:
    """Return up to `limit` bytes of a regular file, or None when it cannot be read."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return None
    try:
        return os.read(fd, limit)
    except OSError:
        return None
    finally:
        os.close(fd)


def enter_scope(rules: Rules, scope: Scope, directory: int, path: bytes, names: list[bytes]) -> tuple[Scope, bool]:
    """Return the scope within a directory, and whether it is a tagged cache (of which only the tag is kept)."""
    if rules.cache_tags and CACHE_TAG_FILE in names:
        start = read_start(directory, CACHE_TAG_FILE, len(CACHE_TAG_SIGNATURE))
        if start == CACHE_TAG_SIGNATURE:
            return scope, True
    if rules.ignore_files and IGNORE_FILE in names:
        data = read_start(directory, IGNORE_FILE, IGNORE_FILE_BYTES_MAX)
        if data:
            return scope.beneath(os.fsdecode(data).splitlines(), path), False
    return scope, False
