"""Merge two heads of a volume into one revision, the same one whoever does it (docs/decisions/007)."""

from typing import Final

from dalsegno.formats import objects
from dalsegno.formats.objects import Revision
from dalsegno.pool.contract import Sink, Source
from dalsegno.terms.errors import NotFound
from dalsegno.terms.ids import hex_short
from dalsegno.trees.merge import Merged, merge_trees
from dalsegno.trees.read import read_revision
from dalsegno.volumes.ancestry import merge_bases

MERGE_AUTHOR: Final = "resolve"
BASES_DEPTH_MAX: Final = 8
"""Where lines crossed more often than this, the newest of several common ancestors has to do."""


def merge_heads(source: Source, sink: Sink, a: bytes, b: bytes) -> bytes:
    """Store the merge of two revisions and return its id. `source` must read what `sink` stored, too.

    What both come from decides who changed what. Where they come from several states, these are merged first; where
    none can be read any more, all that differs is a conflict.
    """
    return _merge(source, sink, a, b, depth=0)


def _merge(source: Source, sink: Sink, a: bytes, b: bytes, *, depth: int) -> bytes:
    a, b = sorted((a, b))
    one, other = read_revision(source, a), read_revision(source, b)
    base = _common_base(source, sink, a, b, depth)
    try:
        merged = _merge_trees(source, sink, base, (a, one), (b, other))
    except NotFound:
        if base is None:
            raise
        base = None  # its tree is not whole any more
        merged = _merge_trees(source, sink, None, (a, one), (b, other))
    revision = Revision(
        volume=one.volume,
        parents=[a, b],
        root=merged.root,
        links=merged.links,
        created_ns=max(one.created_ns, other.created_ns) + 1,
        author=MERGE_AUTHOR,
        message=f"merge, {len(merged.conflicts)} conflicts" if merged.conflicts else "merge",
        entry_count=max(one.entry_count, other.entry_count, _sum("entry_count", one, other, base)),
        total_bytes=max(one.total_bytes, other.total_bytes, _sum("total_bytes", one, other, base)),
    )
    return bytes(sink.put(objects.KIND_REVISION, objects.encode(revision)))


def _merge_trees(
    source: Source, sink: Sink, base: Revision | None, a: tuple[bytes, Revision], b: tuple[bytes, Revision]
) -> Merged:
    return merge_trees(source, sink, base, a[1], b[1], names=(hex_short(a[0]), hex_short(b[0])))


def _sum(name: str, one: Revision, other: Revision, base: Revision | None) -> int:
    """Return about how much the merge holds: counting would mean to walk it."""
    total: int = getattr(one, name) + getattr(other, name) - (getattr(base, name) if base is not None else 0)
    return total


def _common_base(source: Source, sink: Sink, a: bytes, b: bytes, depth: int) -> Revision | None:
    bases = sorted(merge_bases(source, a, b))
    readable: list[tuple[bytes, Revision]] = []
    for identity in bases:
        try:
            readable.append((identity, read_revision(source, identity)))
        except NotFound:
            continue
    if not readable:
        return None
    if len(readable) == 1 or depth >= BASES_DEPTH_MAX:
        return max(readable, key=lambda each: (each[1].created_ns, each[0]))[1]
    folded = readable[0][0]
    for identity, _ in readable[1:]:
        folded = _merge(source, sink, folded, identity, depth=depth + 1)
    return read_revision(source, folded)
