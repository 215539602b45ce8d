"""Patterns that mean what they mean to git in a .gitignore: on bytes, whatever their encoding.

The rules are those of git's dir.c (how a line is read, and what it is compared with) and wildmatch.c (wildcards), their
odd corners included; tests compare with git itself. Each pattern becomes a regular expression of atomic groups: a part
between two stars is taken where it fits first and never tried elsewhere, so that no pattern takes long on any path.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

BOM: Final = b"\xef\xbb\xbf"
PATTERN_BYTES_MAX: Final = 4096
"""A longer pattern is left out: nothing that a person writes, and slow to prepare."""
WILD_LINES_MAX: Final = 1000
WILD_BYTES_MAX: Final = 32 * 1024
"""An ignore file, which anybody may write, has so many patterns with wildcards, of so many bytes together, at most:
each takes time to prepare, and on each name. Those without, or with a single star in front, cost nothing."""
SPECIAL: Final = frozenset(b"*?[\\")
_SLASH: Final = 0x2F
_ASCII: Final = range(0x80)
_SPACES: Final = b" \t\n\r"
CLASSES: Final = {
    b"alnum": frozenset(each for each in _ASCII if chr(each).isalnum()),
    b"alpha": frozenset(each for each in _ASCII if chr(each).isalpha()),
    b"blank": frozenset(b" \t"),
    b"cntrl": frozenset(range(0x20)) | {0x7F},
    b"digit": frozenset(b"0123456789"),
    b"graph": frozenset(range(0x21, 0x7F)),
    b"lower": frozenset(range(0x61, 0x7B)),
    b"print": frozenset(range(0x20, 0x7F)),
    b"punct": frozenset(each for each in range(0x21, 0x7F) if not chr(each).isalnum()),
    b"space": frozenset(_SPACES),
    b"upper": frozenset(range(0x41, 0x5B)),
    b"xdigit": frozenset(b"0123456789abcdefABCDEF"),
}
"""The names within [:...:], as git knows them: for ASCII alone."""
UNCLOSED: Final = "a [ without its ]"
_STAR: Final = b"*"
_DEEP: Final = b"**/"
_DEEPER: Final = b"**\\/"
_REST: Final = b"**"
_COMPONENTS: Final = {_DEEP: rb"(?:[^/]*+/)*?", _DEEPER: rb"(?:[^/]*+/)+?"}


class UselessPattern(ValueError):
    """A pattern that can match nothing; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A line that matches nothing: git ignores it without a word."""

    line: int
    """From 1."""
    text: bytes
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    index: int
    negated: bool
    directory_only: bool


class _Reader:
    """Reads one pattern from left to right into parts of a regular expression and wildcards."""

    def __init__(self, pattern: bytes, *, literal: int, by_name: bool) -> None:
        self._pattern = pattern
        self._literal = literal
        """How many bytes have no wildcard: git compares them apart, and what follows begins anew."""
        self._by_name = by_name
        self._at = 0

    def _byte(self, index: int) -> int:
        """Return the byte at `index`, 0 behind the end, as in C."""
        return self._pattern[index] if index < len(self._pattern) else 0

    def parts(self) -> list[bytes]:
        """Return regular expressions of one byte each, b"/", and the wildcards `*`, `**/`, `**\\/`, `**`."""
        found: list[bytes] = []
        while self._at < len(self._pattern):
            byte = self._pattern[self._at]
            if byte == 0x2A:
                found.append(self._stars())
                continue
            if byte == 0x5B:
                found.append(self._set())
                continue
            if byte == 0x3F:
                found.append(b"[^/]")
            elif byte == 0x5C:
                self._at += 1
                if self._at == len(self._pattern):
                    raise UselessPattern("ends in a backslash")
                found.append(_literal(self._pattern[self._at]))
            else:
                found.append(_literal(byte))
            self._at += 1
        return found

    def _stars(self) -> bytes:
        start = self._at
        while self._byte(self._at) == 0x2A:
            self._at += 1
        if self._at - start == 1 or self._by_name:
            return _STAR
        if start != self._literal and self._pattern[start - 1] != _SLASH:
            return _STAR
        after = self._pattern[self._at : self._at + 2]
        if not after:
            return _REST
        if after[:1] == b"/":
            self._at += 1
            return _DEEP
        if after == b"\\/":
            self._at += 2
            return _DEEPER
        return _STAR

    def _set(self) -> bytes:
        """Read a set [...]: its first byte is in it whatever it is, and a range's end may be escaped."""
        self._at += 1
        negated = self._pattern[self._at : self._at + 1] in (b"!", b"^")
        self._at += negated
        found: set[int] = set()
        before = 0
        while True:
            byte, following = self._byte(self._at), self._byte(self._at + 1)
            if byte == 0x5C:
                self._at += 1
                before = self._byte(self._at)
                found.add(before)
            elif byte == 0x2D and before and following not in (0, 0x5D):
                self._at += 2 if following == 0x5C else 1
                found.update(range(before, self._byte(self._at) + 1))
                before = 0
            elif byte == 0x5B and following == 0x3A and (named := self._class()) is not None:
                found |= named
                before = 0
            else:
                before = byte
                found.add(byte)
            if self._at >= len(self._pattern):
                raise UselessPattern(UNCLOSED)
            self._at += 1
            if self._byte(self._at) == 0x5D:
                break
        self._at += 1
        accepted = (set(range(1, 256)) - found if negated else found) - {_SLASH}
        if not accepted:
            return b"(?!)"
        return b"[" + b"".join(b"\\x%02x" % each for each in sorted(accepted)) + b"]"

    def _class(self) -> frozenset[int] | None:
        """Read [:name:] and stop at its end; None, and nothing read, when it is an ordinary [ in a set."""
        start = self._at + 2
        end = self._pattern.find(b"]", start)
        if end < 0:
            raise UselessPattern(UNCLOSED)
        if end == start or self._pattern[end - 1] != 0x3A:
            return None
        name = self._pattern[start : end - 1]
        if name not in CLASSES:
            raise UselessPattern("a class [:...:] that there is not")
        self._at = end
        return CLASSES[name]


def _literal(byte: int) -> bytes:
    return b"/" if byte == _SLASH else b"\\x%02x" % byte


def _component(parts: list[bytes]) -> bytes:
    """Return the expression of what stands between two slashes."""
    pieces = [b""]
    for part in parts:
        if part == _STAR:
            pieces.append(b"")
        else:
            pieces[-1] += part
    if len(pieces) == 1:
        return pieces[0]
    middle = b"".join(b"(?>[^/]*?" + piece + b")" for piece in pieces[1:-1] if piece)
    return b"(?>" + pieces[0] + middle + b"[^/]*?" + pieces[-1] + rb"(?=/|\Z))"


def _expression(parts: list[bytes]) -> bytes:
    """Return the regular expression of a pattern's parts."""
    groups: list[tuple[bytes, list[list[bytes]]]] = [(b"", [[]])]
    for part in parts:
        if part in _COMPONENTS or part == _REST:
            groups.append((part, [[]]))
        elif part == b"/":
            groups[-1][1].append([])
        else:
            groups[-1][1][-1].append(part)
    text = b""
    for number, (opener, components) in enumerate(groups):
        if opener == _REST:
            break
        body = b"/".join(map(_component, components))
        if number == len(groups) - 1:
            body += rb"\Z"
        text += b"(?>" + _COMPONENTS.get(opener, b"") + body + b")"
    return b"(?s)" + text


class Patterns:
    """The patterns of one place; the last one that matches decides."""

    __slots__ = (
        "_is_bounded",
        "_names",
        "_paths",
        "_suffixes",
        "_wild",
        "_wild_bytes",
        "count",
        "has_paths",
        "problems",
        "refused_from",
    )

    def __init__(self, *, is_bounded: bool = False) -> None:
        """`is_bounded`: somebody wrote them whose patterns must not cost much; those beyond are passed over."""
        self._is_bounded = is_bounded
        self._wild_bytes = 0
        self.refused_from = 0
        """The line of the first pattern that was one too many; 0: none was."""
        self._names: dict[bytes, list[_Verdict]] = {}
        self._paths: dict[bytes, list[_Verdict]] = {}
        self._suffixes: dict[int, dict[bytes, list[_Verdict]]] = {}
        self._wild: list[tuple[_Verdict, bool, re.Pattern[bytes]]] = []
        self.count = 0
        self.has_paths = False
        self.problems: list[Problem] = []

    def add(self, pattern: bytes, *, line: int) -> None:
        """Add one pattern; what can match nothing goes to `problems`."""
        try:
            if not self._add(pattern) and not self.refused_from:
                self.refused_from = line
        except UselessPattern as error:
            self.problems.append(Problem(line=line, text=pattern, reason=str(error)))

    def _add(self, pattern: bytes) -> bool:
        pattern = pattern.partition(b"\0")[0]
        if len(pattern) > PATTERN_BYTES_MAX:
            raise UselessPattern(f"longer than {PATTERN_BYTES_MAX} bytes")
        negated = pattern[:1] == b"!"
        pattern = pattern[negated:]
        directory_only = pattern[-1:] == b"/"
        if directory_only:
            pattern = pattern[:-1]
        by_name = b"/" not in pattern
        if pattern[:1] == b"/":
            pattern = pattern[1:]
        if not pattern:
            raise UselessPattern("names nothing")
        literal = next((index for index, byte in enumerate(pattern) if byte in SPECIAL), len(pattern))
        verdict = _Verdict(index=self.count, negated=negated, directory_only=directory_only)
        if literal == len(pattern):
            (self._names if by_name else self._paths).setdefault(pattern, []).append(verdict)
        elif by_name and literal == 0 and pattern[0] == 0x2A and not SPECIAL.intersection(pattern[1:]):
            self._suffixes.setdefault(len(pattern) - 1, {}).setdefault(pattern[1:], []).append(verdict)
        elif self._is_bounded and not self._takes_wild(pattern):
            return False
        else:
            parts = _Reader(pattern, literal=literal, by_name=by_name).parts()
            self._wild.append((verdict, by_name, re.compile(_expression(parts))))
        self.count += 1
        self.has_paths = self.has_paths or not by_name
        return True

    def _takes_wild(self, pattern: bytes) -> bool:
        """Tell whether one more pattern with wildcards may be prepared; after the first that may not, none may."""
        if self.refused_from or len(self._wild) >= WILD_LINES_MAX or self._wild_bytes + len(pattern) > WILD_BYTES_MAX:
            return False
        self._wild_bytes += len(pattern)
        return True

    def excludes(self, name: bytes, path: bytes, *, is_directory: bool) -> bool | None:
        """Tell whether these patterns leave out `name` (its path from their place: `path`); None: they do not say."""
        best: _Verdict | None = None
        found = [self._names.get(name)]
        if self.has_paths:
            found.append(self._paths.get(path))
        for size, suffixes in self._suffixes.items():
            found.append(suffixes.get(name[len(name) - size :]) if size <= len(name) else None)
        for verdicts in found:
            for verdict in reversed(verdicts or ()):
                if is_directory or not verdict.directory_only:
                    if best is None or verdict.index > best.index:
                        best = verdict
                    break
        for verdict, by_name, expression in reversed(self._wild):
            if best is not None and verdict.index < best.index:
                break
            if (is_directory or not verdict.directory_only) and expression.match(name if by_name else path):
                best = verdict
                break
        return None if best is None else not best.negated


def read_lines(data: bytes) -> Patterns:
    """Return the patterns of an ignore file, as git reads one: BOM, CR, comments and trailing spaces do not count."""
    patterns = Patterns(is_bounded=True)
    for number, line in enumerate(data.removeprefix(BOM).split(b"\n"), 1):
        if not line or line[:1] == b"#":
            continue
        line = _trim(line.removesuffix(b"\r").partition(b"\0")[0])
        if line:
            patterns.add(line, line=number)
    return patterns


def read_words(words: Iterable[bytes]) -> Patterns:
    """Return patterns given one by one, as git takes those of its command line: no comments, every space counts."""
    patterns = Patterns()
    for number, word in enumerate(words, 1):
        if word:
            patterns.add(word, line=number)
    return patterns


def _trim(line: bytes) -> bytes:
    """Return a line without the spaces at its end that no backslash protects."""
    end, escaped = 0, False
    for index, byte in enumerate(line):
        if escaped or byte not in b" \\":
            end, escaped = index + 1, False
        elif byte == 0x5C:
            if index + 1 == len(line):
                return line
            escaped = True
    return line[:end]
