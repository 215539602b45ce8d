"""Heal: a backup stores again what the pool has lost, as far as the source still has it.

What rests on something lost is known to the pool (pool/damage.py) and not relied on; here the scan is told, so that it
reads those directories' files whatever its cache remembers.
"""

import os
from collections.abc import Callable, Iterable, Iterator

from dalsegno.formats.objects import (
    ENTRY_DIRECTORY,
    ENTRY_LINK,
    KIND_CHUNK,
    Entry,
    Revision,
    entry_references,
    references,
)
from dalsegno.host.scan import ScanResult
from dalsegno.pool.damage import summary
from dalsegno.pool.pool import Pool, PoolWriter
from dalsegno.terms.counts import count_of
from dalsegno.terms.errors import DalError, Damaged, NotFound
from dalsegno.terms.events import Note, Report
from dalsegno.terms.ids import OBJECT_ID_BYTES, ObjectId
from dalsegno.trees.limit import entries_max
from dalsegno.trees.read import iterate_directory, links_key
from dalsegno.volumes.state import VolumeState
from dalsegno.volumes.store import damaged_refs


class Doubts:
    """Which directories of a scan cache can be relied on, and how many could not be."""

    def __init__(self, pool: Pool, writer: PoolWriter) -> None:
        self.count = 0
        self._pool = pool
        self._writer = writer
        self._unsound = bool(pool.read_unsound())

    def __bool__(self) -> bool:
        return self._unsound or bool(self._pool.losses.notes)

    def relies(self, identity: bytes) -> bool:
        """Tell whether a directory is there with all that it names."""
        # Of a pool that is only a part of others it is not known what rests on what was lost.
        if self._pool.elsewhere is None and self._writer.has(ObjectId(identity)):
            return True
        self.count += 1
        return False

    def look_closer(self) -> bool:
        """Find what rests on damage that was met since; return whether there was any."""
        if not self._writer.see_damage():
            return False
        self._unsound = True
        self.count = 0
        return True

    def tell(self, report: Report) -> None:
        """Say in a line what was healed, and that something else is not."""
        if not self.count:
            return
        text = f"the pool has lost something ({summary(self._pool.losses.notes)}): {self.count:,} "
        text += "directory that rested on it was" if self.count == 1 else "directories that rested on it were"
        text += " read again and stored again"
        if self._pool.read_unsound():
            text += "; older states still lack files: `dal verify --pool` names them"
        report(Note(severity="notice", path=os.fsencode(self._pool.place), text=text))


def scan_again_when_damaged(doubts: Doubts, look: Callable[[], ScanResult]) -> ScanResult:
    """Scan, and once more when the scan itself met damage that nobody knew of."""
    try:
        return look()
    except (Damaged, NotFound):
        if not doubts.look_closer():
            raise
    return look()


class LostFiles:
    """What cannot be read in the revisions of a pool; `Pool.look_for_unsound` was asked shortly before."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._unsound = unsound_of(pool)

    def paths(self, revision: Revision) -> Iterator[bytes]:
        """Yield the paths whose content or attributes cannot be read, and directories whose names cannot (`/` behind).

        Only directories that rest on something lost are entered, unless files with several names are lost.
        """
        links = self._lost_links(revision.links)
        stack = [(b"", revision.root.content)]
        left = entries_max(revision)
        while stack and left >= 0:
            path, identity = stack.pop()
            if links == set() and self._can_read(identity):
                continue
            below = []
            try:
                for entry in iterate_directory(self._pool, ObjectId(identity)):
                    name = path + b"/" + entry.name
                    left -= 1
                    if entry.kind == ENTRY_DIRECTORY:
                        below.append((name, entry.content))
                    if entry.kind == ENTRY_LINK:
                        lost = links is None or links_key(entry.link) in links
                    else:
                        lost = not self._is_whole(entry)
                    if lost:
                        yield name
            except (Damaged, NotFound):
                yield path + b"/"
            stack += reversed(below)

    def _lost_links(self, links: bytes) -> set[bytes] | None:
        """Return the keys of the files with several names that cannot be read; None: all of them."""
        if not links or self._can_read(links):
            return set()
        try:
            return {entry.name for entry in iterate_directory(self._pool, ObjectId(links)) if not self._is_whole(entry)}
        except (Damaged, NotFound):
            return None

    def _is_whole(self, entry: Entry) -> bool:
        """Tell whether an entry's content and attributes can be read; of a directory only the attributes."""
        return all(
            self._can_read(identity)
            for kind, identity in entry_references(entry)
            if entry.kind != ENTRY_DIRECTORY or kind == KIND_CHUNK
        )

    def _can_read(self, identity: bytes) -> bool:
        """Tell whether an object is there with all below it or, though noted as damaged, can be read after all."""
        if identity in self._unsound:
            return False
        if self._pool.has(ObjectId(identity)):
            return True
        try:
            kind, payload = self._pool.get_kind(identity)
        except DalError:
            return False
        return self._pool.realm.identify(kind, payload) == identity


def is_whole(pool: Pool, revision: bytes) -> bool:
    """Tell whether a revision is here with all that it names, as far as is known; directories are not read."""
    try:
        return all(
            pool.has(ObjectId(identity)) and identity not in unsound_of(pool)
            for identity in (revision, *(each for _, each in references(*pool.get_kind(revision))))
        )
    except (NotFound, Damaged):
        return False


def unsound_of(pool: Pool) -> set[bytes]:
    """Return the directories and recipes that rest on something lost."""
    data = pool.read_unsound()
    return {data[at : at + OBJECT_ID_BYTES] for at in range(0, len(data), OBJECT_ID_BYTES)}


def damage_lines(pool: Pool, states: Iterable[VolumeState]) -> list[str]:
    """Return a line for each pack that is known to be damaged, and one about what to do."""
    refs = [str(error) for error in damaged_refs(pool)]
    lines = [f"{pool.where_pack(pack_id)}: {each.text()}" for pack_id, each in sorted(pool.losses.notes.packs.items())]
    unsound = len(unsound_of(pool))
    if not lines and not unsound:
        return refs
    lines = refs + lines
    lost = [
        f"{state.name}@{name}"
        for state in states
        for name, clone in state.clones.salvage()[0]
        if not pool.has(ObjectId(clone.revision))
    ]
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        lines.append(f"lost altogether: {', '.join(lost[:3])}{more}: `dal unclone` lets go of them")
    if unsound:
        lines.append(
            f"{count_of(unsound, 'directory', 'directories')} of one state or another lack something: "
            "`dal verify --pool` names files and clones, the next backup stores again what the source has"
        )
    elif pool.is_damage_new:
        lines.append("`dal verify --pool` tells what is lost by it, the next backup stores again what the source has")
    elif not lost:
        lines.append("what was there is stored again, or nothing needs it: `dal gc` ends this note")
    return lines
