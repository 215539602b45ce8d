"""Changes of hard links as people see them: of the file behind each name, and of which names belong together.

A links table knows files by number, and a number may change where nothing else did (a file was restored: it is another
inode now). So numbers are only compared by which names have the same.
"""

from collections.abc import Iterator

from msgspec.structs import replace

from dalsegno.formats.objects import ENTRY_LINK, Entry, Revision
from dalsegno.pool.contract import Source
from dalsegno.terms.errors import DalError
from dalsegno.trees.diff import Change
from dalsegno.trees.links import LinksTable


class _Pairs:
    """Which numbers of the old and of the new tree are the same file's, told by the names met so far."""

    def __init__(self, before: LinksTable, after: LinksTable) -> None:
        self._before = before
        self._after = after
        self._new_of: dict[int, int] = {}
        self._old_of: dict[int, int] = {}

    def are_one(self, old: int, new: int) -> bool:
        """Tell whether all names of an old file are names of one new file, which has no others of before."""
        if old == new:
            return True
        if old not in self._new_of and new not in self._old_of:
            # A number that the other side knows as well has names there that did not move.
            if self._after.find(old) is not None or self._before.find(new) is not None:
                return False
            self._new_of[old], self._old_of[new] = new, old
        return self._new_of.get(old) == new and self._old_of.get(new) == old


def settle_links(
    changes: Iterator[Change], source: Source, old: Revision | None, new: Revision | None
) -> Iterator[Change]:
    """Yield changes with hard links as the files behind them, under their own names; those that are none are left out.

    `link` stays set where a name belongs together with others than before.
    """
    before = LinksTable(source, old.links if old else b"")
    after = LinksTable(source, new.links if new else b"")
    pairs = _Pairs(before, after)
    for change in changes:
        name = change.path.rpartition(b"/")[2]
        try:
            was, now = _file(before, change.old, name), _file(after, change.new, name)
            if was is None or now is None or was.kind != now.kind:
                yield Change(change.path, was, now)
                continue
            links = [each.link if each is not None else 0 for each in (change.old, change.new)]
            if all(links) and pairs.are_one(*links):
                links = [0, 0]
                now = replace(now, node=was.node, btime_ns=was.btime_ns) if was.node != now.node else now
            was, now = replace(was, link=links[0]), replace(now, link=links[1])
        except DalError:
            yield change  # a damaged table: what the names say is still true
            continue
        if was != now:
            yield Change(change.path, was, now)


def _file(table: LinksTable, entry: Entry | None, name: bytes) -> Entry | None:
    if entry is None:
        return None
    if entry.kind != ENTRY_LINK:
        return entry if entry.name == name or not name else replace(entry, name=name)
    found = table.find(entry.link)
    return replace(found[1], name=name) if found is not None else entry
