"""Whether a tree holds what its revision says, asked before a revision of somebody else is taken in."""

from dalsegno.formats.objects import Revision
from dalsegno.pool.contract import Source
from dalsegno.terms.errors import Damaged, NotFound
from dalsegno.trees.count import count_more
from dalsegno.trees.limit import bytes_max, entries_max, too_large, too_many
from dalsegno.trees.measure import measure_tree


def false_claim(source: Source, revision: Revision, known: Revision | None) -> Damaged | None:
    """Return what is wrong with a revision whose tree holds much more than it says, or None.

    Beside a `known` revision, whose word is believed, only what differs is read; without one each directory once. What
    cannot be read, since the pool lost it, is not held against the revision.
    """
    try:
        entries, size = _measure(source, revision, known)
    except (Damaged, NotFound):
        return None
    if entries > entries_max(revision):
        return too_many(revision)
    return too_large(revision) if size > bytes_max(revision) else None


def _measure(source: Source, revision: Revision, known: Revision | None) -> tuple[int, int]:
    if known is not None:
        try:
            more_entries, more_bytes = count_more(source, known, root=revision.root, links=revision.links)
            return known.entry_count + more_entries, known.total_bytes + more_bytes
        except (Damaged, NotFound):
            pass  # the known one is not here whole
    return measure_tree(source, revision.root, revision.links)
