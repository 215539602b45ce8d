"""One history of pool and dumps: the states that only dumps have, read in place from spool and disks that are here."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from dalsegno.actions.browse import History, Step, pool_steps
from dalsegno.actions.retrieve import media_here
from dalsegno.actions.session import House
from dalsegno.archive.installation import Installation
from dalsegno.backup.chains import rank_copies, restorable
from dalsegno.backup.records import SPOOL_TARGET, Copy, DumpEntry, usable_copies
from dalsegno.pool.contract import Source
from dalsegno.pool.pack_read import PackFile, PackReader
from dalsegno.pool.sources import FirstOf, PacksSource
from dalsegno.terms.errors import DalError, NotFound
from dalsegno.terms.events import Note, Report
from dalsegno.terms.times import time_name
from dalsegno.volumes.address import plain_name

READERS_MAX = 500
"""Dumps of one volume that are open at once: the newest ones."""


class Dumped:
    """The histories of pool and dumps; used in a `with` block, which closes the dumps. A Histories (browse.py)."""

    def __init__(self, house: House, site: Installation, *, report: Report) -> None:
        self._house = house
        self._site = site
        self._report = report
        self._stack = ExitStack()
        self._here = media_here(site, report=report)
        self.away_count = 0
        """How many states could not be looked into."""
        self.away: set[str] = set()
        """Labels of the media that would be needed for them."""

    def __enter__(self) -> "Dumped":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def __call__(self, volume: str | None) -> Iterator[History]:
        """Yield the history of every volume in pool or catalog, or of one."""
        volume = plain_name(volume) if volume is not None else None
        in_pool = {state.name: state for state in self._house.volumes.list()}
        dumped = {name: volume_id for volume_id, name in self._site.catalog.volumes()}
        names = sorted(in_pool.keys() | dumped.keys()) if volume is None else [volume]
        known_ids = {state.id for state in in_pool.values()}
        for name in names:
            state = in_pool.get(name)
            if state is not None:
                state = self._house.volumes.get_by_id(state.id) or state
            if state is None and name not in dumped:
                raise NotFound(f"no volume {name!r} in pool or catalog: `dal volume list` and `dal history` show all")
            if state is None and dumped[name] in known_ids:
                continue  # renamed since: its dumps are found under its new name
            steps = pool_steps(state) if state is not None else []
            with ExitStack() as stack:
                more, readers = self._dumped_steps(
                    state.id if state is not None else dumped[name], {step.revision for step in steps}, stack
                )
                taken = {step.name for step in steps}
                steps += [step if step.name not in taken else _dated(step) for step in more]
                steps.sort(key=lambda step: (step.created_ns, step.name))
                dumps = PacksSource(readers, absent=lambda: "in no dump that is here")
                source: Source = FirstOf(
                    [self._house.pool, dumps], absent="neither in the pool nor in a dump that is here"
                )
                yield History(volume=name, steps=steps, source=source)

    def _dumped_steps(
        self, volume_id: bytes, known: set[bytes], stack: ExitStack
    ) -> tuple[list[Step], list[PackReader]]:
        """Return the states that dumps alone have and that can be read now, and the open dumps, newest first."""
        entries = self._site.catalog.dumps(volume_id)
        if all(entry.revision in known for entry in entries):
            return [], []
        copies = self._site.catalog.copies_of(entry.dump_id for entry in entries)
        readers: dict[bytes, PackReader] = {}
        for entry in entries[::-1][:READERS_MAX]:
            place = self._place(entry, copies.get(entry.dump_id, []))
            if place is None:
                continue
            try:
                readers[entry.dump_id] = stack.enter_context(PackReader.open(place, self._house.pool.realm))
            except DalError as error:
                self._report(Note(severity="error", path=os.fsencode(entry.volume_name), text=str(error)))
        good = restorable(entries, usable=lambda entry: entry.dump_id in readers)
        steps: dict[bytes, Step] = {}
        for entry in entries:
            if entry.revision in known or entry.revision in steps:
                continue
            if entry.dump_id not in good:
                self.away_count += 1
                self._remember_away(entries, copies, readers)
                continue
            name = entry.clone_name or time_name(entry.cloned_at_ns)
            steps[entry.revision] = Step(name=name, created_ns=entry.cloned_at_ns, revision=entry.revision)
        return list(steps.values()), list(readers.values())

    def _place(self, entry: DumpEntry, copies: list[Copy]) -> Path | PackFile | None:
        usable = usable_copies(copies)
        for parts in usable:
            if parts[0].target == SPOOL_TARGET and parts[0].path_in_spool().is_file():
                return parts[0].path_in_spool()
        for ranked in rank_copies(usable, here=self._here):
            place = self._site.target(ranked[0].target).open_read(ranked, entry)
            if place is not None:
                return place
        return None

    def _remember_away(
        self, entries: list[DumpEntry], copies: dict[bytes, list[Copy]], readers: dict[bytes, PackReader]
    ) -> None:
        for entry in entries:
            if entry.dump_id not in readers:
                self.away |= {copy.medium for copy in copies.get(entry.dump_id, []) if copy.target != SPOOL_TARGET}


def _dated(step: Step) -> Step:
    """Return a step under its time: another state has its clone's name."""
    return Step(name=time_name(step.created_ns), created_ns=step.created_ns, revision=step.revision)
