"""Merge two heads of a volume into one revision, the same one whoever does it (docs/decisions/007)."""

from collections.abc import Iterator
from typing import Final

from dalsegno.formats import objects
from dalsegno.formats.objects import Revision
from dalsegno.pool.contract import Sink, Source
from dalsegno.terms.errors import NotFound
from dalsegno.terms.ids import ObjectId, hex_short
from dalsegno.trees.count import count_more
from dalsegno.trees.coverage import join_coverage
from dalsegno.trees.merge import Merged, merge_trees
from dalsegno.trees.read import read_revision
from dalsegno.volumes.ancestry import find_revision, merge_bases

MERGE_AUTHOR: Final = "resolve"
BASES_DEPTH_MAX: Final = 8
"""Where lines crossed more often than this, the newest of several common ancestors has to do."""


def merge_heads(source: Source, sink: Sink, a: bytes, b: bytes) -> bytes:
    """Store the merge of two revisions and return its id. `source` must read what `sink` stored, too.

    What both come from decides who changed what. Where they come from several states, these are merged first; one whose
    tree is not here any more is passed over, and without any all that differs is a conflict.
    """
    return _merge(source, sink, a, b, depth=0)


def _merge(source: Source, sink: Sink, a: bytes, b: bytes, *, depth: int) -> bytes:
    a, b = sorted((a, b))
    one, other = read_revision(source, a), read_revision(source, b)
    merged = _merge_from(source, sink, (a, one), (b, other), depth)
    more_entries, more_bytes = count_more(source, one, root=merged.root, links=merged.links)
    revision = Revision(
        volume=one.volume,
        parents=[a, b],
        root=merged.root,
        links=merged.links,
        created_ns=max(one.created_ns, other.created_ns) + 1,
        author=MERGE_AUTHOR,
        message=_message(len(merged.conflicts)),
        entry_count=max(0, one.entry_count + more_entries),
        total_bytes=max(0, one.total_bytes + more_bytes),
        coverage=join_coverage(one.coverage, other.coverage),
    )
    return bytes(sink.put(objects.KIND_REVISION, objects.encode(revision)))


def _merge_trees(
    source: Source, sink: Sink, base: Revision | None, a: tuple[bytes, Revision], b: tuple[bytes, Revision]
) -> Merged:
    return merge_trees(source, sink, base, a[1], b[1], names=(hex_short(a[0]), hex_short(b[0])))


def _message(conflicts: int) -> str:
    if not conflicts:
        return "merge"
    return "merge, 1 conflict" if conflicts == 1 else f"merge, {conflicts} conflicts"


def _merge_from(source: Source, sink: Sink, a: tuple[bytes, Revision], b: tuple[bytes, Revision], depth: int) -> Merged:
    """Merge from the best base whose tree is here."""
    for base in _bases(source, sink, a[0], b[0], depth):
        try:
            return _merge_trees(source, sink, base, a, b)
        except NotFound:
            continue  # its tree is not whole any more
    return _merge_trees(source, sink, None, a, b)


def _bases(source: Source, sink: Sink, a: bytes, b: bytes, depth: int) -> Iterator[Revision]:
    """Yield what two revisions come from: several states merged into one, then each of them, the newest first."""
    there: list[tuple[int, bytes, Revision]] = []
    for identity in merge_bases(source, a, b):
        revision = find_revision(source, identity)
        if revision is not None and _is_readable(source, revision):
            there.append((revision.created_ns, identity, revision))
    if len(there) > 1 and depth < BASES_DEPTH_MAX:
        folded = b""
        for identity in sorted(each[1] for each in there):
            try:
                folded = _merge(source, sink, folded, identity, depth=depth + 1) if folded else identity
            except NotFound:
                continue
        yield read_revision(source, folded)
    for _, _, revision in sorted(there, key=lambda each: each[:2], reverse=True):
        yield revision


def _is_readable(source: Source, revision: Revision) -> bool:
    try:
        source.get(ObjectId(revision.root.content))
    except NotFound:
        return False
    return True
