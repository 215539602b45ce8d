"""Which clones a server keeps: all, or those that patterns name, `daily-*@last7,monthly-*`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from dalsegno.terms.errors import BadInput
from dalsegno.volumes.clones import Clone, Clones

_LAST = re.compile(r"^last([1-9][0-9]{0,5})\Z")


@dataclass(frozen=True, slots=True)
class Pattern:
    """Clones whose names match, of these the newest `last`, or all."""

    glob: str
    last: int | None = None


def parse_patterns(text: str) -> list[Pattern]:
    """Return the patterns in `text`, which commas separate."""
    patterns = []
    for part in text.split(","):
        glob, at, count = part.strip().partition("@")
        match = _LAST.match(count)
        if not glob or (at and match is None):
            raise BadInput(f"clones {text!r}: expected PATTERN or PATTERN@lastN, for example daily-*@last7")
        patterns.append(Pattern(glob, int(match.group(1)) if match is not None else None))
    return patterns


def keeps(text: str | None, clones: Mapping[str, Clone], name: str) -> bool:
    """Tell whether a server with these patterns keeps the clone `name`, one of `clones`."""
    return not text or name in kept(text, clones)


def clones_lacking(text: str | None, clones: Clones, *, of: Clones) -> set[str]:
    """Return the clones of another server that one with these patterns keeps, and has not."""
    names = kept(text, of) if text else clones.differing(of)
    return {name for name in names if name in of and name not in clones}


def kept(text: str | None, clones: Mapping[str, Clone]) -> set[str]:
    """Return the names of those `clones` that a server with these patterns keeps; without patterns all.

    A held clone whose name matches is kept however many are newer.
    """
    if not text:
        return set(clones)
    names: set[str] = set()
    for pattern in parse_patterns(text):
        matching = [name for name in clones if fnmatchcase(name, pattern.glob)]
        matching.sort(key=lambda name: (clones[name].created_ns, name), reverse=True)
        names.update(matching[: pattern.last])
        names.update(name for name in matching if clones[name].held)
    return names
