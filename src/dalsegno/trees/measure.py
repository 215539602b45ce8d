"""Measure a tree whose word is not believed: each directory is read once, however often it is named."""

from collections.abc import Iterator
from typing import Final

from dalsegno.formats.objects import ENTRY_DIRECTORY, ENTRY_FILE, Entry
from dalsegno.pool.contract import Source
from dalsegno.terms.errors import Damaged
from dalsegno.trees.read import iterate_directory

DEPTH_MAX: Final = 16_384
_OPEN: Final = (-1, -1)
"""Of a directory that is being measured: who meets it below itself has met a loop."""


class Measures:
    """How much is below directories: names, and bytes of files; those with several names are not in the bytes."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known: dict[bytes, tuple[int, int]] = {}

    def of(self, directory: bytes) -> tuple[int, int]:
        """Return names and bytes below a directory; Damaged for one that contains itself."""
        if directory in self._known:
            return self._known[directory]
        stack = [self._enter(directory)]
        while stack:
            identity, waiting, below, entries, size = stack[-1]
            met = next((each for each in waiting if each not in self._known), None)
            if met is not None:
                if len(stack) > DEPTH_MAX:
                    raise Damaged("its directories lie too deep in one another")
                stack.append(self._enter(met))
                continue
            for each in below:
                found = self._known[each]
                if found is _OPEN:
                    raise Damaged("a directory that contains itself")
                entries, size = entries + found[0], size + found[1]
            self._known[identity] = entries, size
            stack.pop()
        return self._known[directory]

    def _enter(self, identity: bytes) -> tuple[bytes, Iterator[bytes], list[bytes], int, int]:
        below: list[bytes] = []
        entries = size = 0
        for entry in iterate_directory(self._source, identity):
            entries += 1
            if entry.kind == ENTRY_DIRECTORY:
                below.append(entry.content)
            elif entry.kind == ENTRY_FILE:
                size += entry.size
        self._known[identity] = _OPEN
        return identity, iter(below), below, entries, size


def measure_tree(source: Source, root: Entry, links: bytes) -> tuple[int, int]:
    """Return how many names a tree has without its root's, and bytes of files, each counted once."""
    entries, size = Measures(source).of(root.content)
    if links:
        size += sum(entry.size for entry in iterate_directory(source, links))
    return entries, size
