"""Who descends from whom: walks along the parents of revisions.

A revision is later than each of its parents, whatever the clocks say
(docs/decisions/007-heads-move-forward-only.md), so a walk that takes the newest first has met all descendants of a
revision when it meets the revision, and stops where nothing older can matter. A parent that is not here (its state was
thinned out or collected) ends its line, and so does one that is not older than its child, which no writer makes.
"""

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush

from dalsegno.formats.objects import Revision
from dalsegno.pool.contract import Source
from dalsegno.terms.errors import Damaged, NotFound
from dalsegno.trees.read import read_revision

_OF_A = 1
_OF_B = 2
_OF_BOTH = _OF_A | _OF_B
_PASSED = 4
"""Behind something that was found already."""
_NO_TIME = -(1 << 63)
"""Older than everything: of a revision that is not here."""


def find_revision(source: Source, identity: bytes) -> Revision | None:
    """Return a revision, or None when it is not here."""
    try:
        return read_revision(source, identity)
    except (NotFound, Damaged):
        return None


def is_ancestor(source: Source, old: bytes, new: bytes) -> bool:
    """Return whether `old` is `new` or lies behind it. `old` itself need not be here."""
    return bool(walk_back(source, old, new))


def walk_back(source: Source, old: bytes, new: bytes, *, steps_max: int | None = None) -> bool | None:
    """Return whether `old` is `new` or lies behind it; None when `steps_max` revisions did not tell."""
    if old == new:
        return True
    newest = find_revision(source, new)
    if newest is None:
        return False
    oldest = find_revision(source, old)
    stack, met = [newest], {new}
    while stack:
        child = stack.pop()
        if old in child.parents:
            return True
        for identity in child.parents:
            if identity in met:
                continue
            if steps_max is not None and len(met) > steps_max:
                return None
            met.add(identity)
            parent = find_revision(source, identity)
            if parent is None or parent.created_ns >= child.created_ns:
                continue
            if oldest is None or parent.created_ns > oldest.created_ns:
                stack.append(parent)
    return False


class _Walk:
    """Revisions by time, the newest first; each carries marks that its parents inherit."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._heap: list[tuple[int, bytes, Revision]] = []
        self._times: dict[bytes, int] = {}
        self._open: set[bytes] = set()
        """Those in the heap that are not passed."""
        self.marks: dict[bytes, int] = {}
        self.absent: set[bytes] = set()

    def add(self, identity: bytes, marks: int, *, child: Revision | None = None) -> None:
        if identity not in self._times:
            revision = find_revision(self._source, identity)
            self._times[identity] = revision.created_ns if revision is not None else _NO_TIME
            if revision is None:
                self.absent.add(identity)
        else:
            revision = None
        if child is not None and self._times[identity] >= child.created_ns:
            return
        if marks & _PASSED:
            self._open.discard(identity)
        if identity in self.marks:
            self.marks[identity] |= marks
            return
        self.marks[identity] = marks
        if identity not in self.absent:
            revision = revision or read_revision(self._source, identity)
            heappush(self._heap, (-revision.created_ns, identity, revision))
            if not marks & _PASSED:
                self._open.add(identity)

    def next(self) -> tuple[bytes, Revision] | None:
        """Return the newest that was not returned yet; None when all that is left is passed."""
        if not self._open:
            return None
        _, identity, revision = heappop(self._heap)
        self._open.discard(identity)
        return identity, revision


def merge_bases(source: Source, a: bytes, b: bytes) -> list[bytes]:
    """Return the newest common ancestors, none of which lies behind another, sorted by id; `a` or `b` may be one.

    An ancestor that is not here counts when both name it in their line.
    """
    walk = _Walk(source)
    walk.add(a, _OF_A)
    walk.add(b, _OF_B)
    found = []
    while (met := walk.next()) is not None:
        identity, revision = met
        marks = walk.marks[identity]
        if marks & _OF_BOTH == _OF_BOTH:
            if not marks & _PASSED:
                found.append(identity)
            marks |= _PASSED
        for parent in revision.parents:
            walk.add(parent, marks, child=revision)
    found += [identity for identity in walk.absent if walk.marks[identity] == _OF_BOTH]
    return sorted(found)


def between(source: Source, new: bytes, stops: Iterable[bytes]) -> Iterator[bytes]:
    """Yield `new` and what lies behind it, newest first, without the `stops` and what lies behind those."""
    return behind_all(source, [new], stops)


def behind_all(source: Source, news: Iterable[bytes], stops: Iterable[bytes]) -> Iterator[bytes]:
    """Yield all `news` and what lies behind them, newest first, without the `stops` and what lies behind those."""
    walk = _Walk(source)
    for stop in stops:
        walk.add(stop, _PASSED)
    for new in news:
        walk.add(new, 0)
    while (met := walk.next()) is not None:
        identity, revision = met
        marks = walk.marks[identity]
        if not marks:
            yield identity
        for parent in revision.parents:
            walk.add(parent, marks, child=revision)
