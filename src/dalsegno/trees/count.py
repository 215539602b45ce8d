"""How much more one tree holds than another: only what differs is looked at, and what moved is not entered."""

from typing import Final

from dalsegno.formats.objects import ENTRY_DIRECTORY, ENTRY_FILE, Entry, Revision
from dalsegno.pool.contract import Source
from dalsegno.trees.diff import differing_nodes
from dalsegno.trees.measure import Measures
from dalsegno.trees.read import iterate_directory

STEPS_MAX: Final = 100_000
"""So many directories that came or went are counted one by one, so that those which only moved cost nothing."""


def count_more(source: Source, old: Revision, *, root: Entry, links: bytes) -> tuple[int, int]:
    """Return how many entries, and bytes of files, a tree has more than `old`; a file of several names counts once."""
    entry_count, size_bytes = count_more_below(source, old.root.content, root.content)
    if old.links != links:
        _, before, after = differing_nodes(source, old.links, links)
        size_bytes += sum(entry.size for entry in after.values()) - sum(entry.size for entry in before.values())
    return entry_count, size_bytes


def count_more_below(source: Source, old: bytes, new: bytes) -> tuple[int, int]:
    """Return the same of two directories, either of which may be none; files of several names do not count."""
    growth = _Growth(source)
    growth.compare(old, new)
    return growth.entry_count, growth.size_bytes


class _Growth:
    """What is counted so far, and the directories that went and that came, which may be the same ones."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._pairs: list[tuple[bytes, bytes]] = []
        self._sides: tuple[dict[int, list[Entry]], dict[int, list[Entry]]] = ({}, {})
        """By node: directories that only the old tree has where they are, and those that only the new one has."""
        self.entry_count = 0
        self.size_bytes = 0

    def compare(self, old: bytes, new: bytes) -> None:
        """Count what the directory `new` and all below it have more than `old`."""
        self._pairs.append((old, new))
        while self._pairs:
            while self._pairs:
                self._compare_entries(*self._pairs.pop())
            self._pair_moved()
        whole: dict[bytes, int] = {}
        for side, sign in enumerate((-1, 1)):
            for entries in self._sides[side].values():
                for entry in entries:
                    _add(whole, entry.content, sign)
        steps = 0
        while whole:
            if steps == STEPS_MAX:
                self._count_rest(whole)
                break
            steps += 1
            content = next(iter(whole))
            times = whole.pop(content)
            for entry in iterate_directory(self._source, content):
                self._count(entry, times)
                if entry.kind == ENTRY_DIRECTORY:
                    _add(whole, entry.content, times)

    def _count_rest(self, whole: dict[bytes, int]) -> None:
        """Count what is left with a memo: a tree that is no tree may name one directory in very many places."""
        measures = Measures(self._source)
        for content, times in whole.items():
            entries, size = measures.of(content)
            self.entry_count += times * entries
            self.size_bytes += times * size

    def _compare_entries(self, old: bytes, new: bytes) -> None:
        if old == new:
            return
        _, before, after = differing_nodes(self._source, old, new)
        for name in sorted(before.keys() | after.keys()):
            here = [before.get(name), after.get(name)]
            directories = [entry for entry in here if entry is not None and entry.kind == ENTRY_DIRECTORY]
            if len(directories) == 2:
                self._pairs.append((directories[0].content, directories[1].content))
                continue
            for side, entry in enumerate(here):
                if entry is not None:
                    self._count(entry, 1 if side else -1)
                    if entry.kind == ENTRY_DIRECTORY:
                        self._sides[side].setdefault(entry.node, []).append(entry)

    def _pair_moved(self) -> None:
        """Compare directories that moved with themselves."""
        gone, come = self._sides
        for node in sorted(gone.keys() & come.keys()):
            while gone[node] and come[node]:
                self._pairs.append((gone[node].pop().content, come[node].pop().content))

    def _count(self, entry: Entry, times: int) -> None:
        self.entry_count += times
        if entry.kind == ENTRY_FILE:
            self.size_bytes += times * entry.size


def _add(whole: dict[bytes, int], content: bytes, times: int) -> None:
    """Note a directory that is there so many times more; of one that only moved nothing is left."""
    if content:
        total = whole.pop(content, 0) + times
        if total:
            whole[content] = total
