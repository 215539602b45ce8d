"""Bring dumps back from media: said before it begins, fetched to the spool, checked, gone on with when interrupted."""

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from dalsegno.archive.chains import find_state
from dalsegno.archive.installation import Installation
from dalsegno.archive.labels import BadLabel
from dalsegno.backup.chains import ChainPlan, Reading, State, plan_chain
from dalsegno.backup.records import BAD, DUMP_SUFFIX, GOOD, SPOOL_TARGET, Copy, DumpEntry
from dalsegno.formats.media import LABEL_NAME
from dalsegno.pool.pack_read import PackFile
from dalsegno.terms.errors import DalError, Damaged, NotFound
from dalsegno.terms.events import Note, Report, silent
from dalsegno.terms.ids import hex_short
from dalsegno.terms.names import file_name
from dalsegno.terms.times import SECOND_NS
from dalsegno.world.clock import now_ns
from dalsegno.world.files import settle_file

FETCHED_KEPT_NS = 7 * 86400 * SECOND_NS
"""What a restore that was given up had fetched stays so long, for another try."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved:
    """Dumps that can be read now, in the order of the chain."""

    state: State
    places: tuple[Path | PackFile, ...]
    fetched: tuple[bytes, ...]
    """Ids of the dumps that were brought to the spool for this, or for an earlier try."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The dumps as files: all are, unless they were asked for in place."""
        found = tuple(place for place in self.places if isinstance(place, Path))
        assert len(found) == len(self.places)
        return found


def bad_labels(site: Installation, names: Iterable[str] | None = None) -> list[BadLabel]:
    """Return the places of targets (all by default) whose label cannot be read; a target in disorder has none."""
    found: list[BadLabel] = []
    for name in site.targets if names is None else names:
        with contextlib.suppress(DalError):
            found += site.target(name).bad_labels()
    return found


def say_bad_labels(site: Installation, report: Report) -> None:
    """Report every place of a target whose label cannot be read: the others are gone on with."""
    for bad in bad_labels(site):
        report(bad_label_note(bad))


def bad_label_note(bad: BadLabel) -> Note:
    """Return what is to be said about a place whose label cannot be read."""
    text = str(bad.error).removeprefix(f"{bad.path}/{LABEL_NAME}: ")
    return Note(severity="error", path=os.fsencode(bad.path / LABEL_NAME), text=text, is_damage=True)


def media_here(site: Installation, *, report: Report = silent) -> dict[str, Set[str]]:
    """Return the labels of the media that can be reached now, by target; one in disorder is noted."""
    here: dict[str, Set[str]] = {}
    for name, target in site.targets.items():
        try:
            here[name] = {medium.label for medium in target.present()}
        except DalError as error:
            report(Note(severity="note", path=os.fsencode(name), text=str(error)))
            here[name] = set()
    return here


def plan_retrieve(site: Installation, state: State, *, from_media: bool = False, report: Report = silent) -> ChainPlan:
    """Return from where each dump of a state is read. `from_media`: as if nothing lay in the spool."""

    def lies_at(entry: DumpEntry, copies: Sequence[Copy]) -> Path | None:
        places = [copy.path_in_spool() for copy in copies if copy.target == SPOOL_TARGET]
        for place in [*places, site.spool.fetched(entry.dump_id)]:
            if place.is_file() and place.stat().st_size == entry.size_bytes:
                return place
        return None

    copies = site.catalog.copies_of(entry.dump_id for entry in state.chain)
    return plan_chain(state, copies, here=media_here(site, report=report), lies_at=lies_at, from_media=from_media)


def find_and_plan(
    site: Installation, volume: str, selector: str, *, volume_id: bytes | None = None, report: Report = silent
) -> ChainPlan:
    """Return how the state that `volume@selector` names comes back."""
    state = find_state(site.catalog, volume, selector, now_ns=now_ns(), volume_id=volume_id)
    return plan_retrieve(site, state, report=report)


def retrieve(
    site: Installation,
    plan: ChainPlan,
    *,
    in_place: bool = False,
    from_media: bool = False,
    directory: Path | None = None,
    report: Report = silent,
) -> Retrieved:
    """Make every dump of a plan readable, and return where; with `directory`, what is on media is fetched to there.

    What is not in the spool is fetched there, and gone on with when an earlier call was interrupted; `in_place` reads
    dumps on the media themselves where that is possible. A copy that is found damaged is marked so in the catalog, and
    another one is taken.
    """
    places: list[Path | PackFile] = []
    fetched: list[bytes] = []
    direct = {reading.entry.dump_id: _open_read(site, reading) for reading in plan.readings} if in_place else {}
    wanted = sum(
        reading.fetch_bytes - _begun_bytes(site, reading)
        for reading in plan.readings
        if direct.get(reading.entry.dump_id) is None
    )
    site.spool.forget_old(before_ns=now_ns() - FETCHED_KEPT_NS)
    if wanted and directory is None:
        site.spool.require_room(wanted, purpose=f"{plan.state.top.volume_name}, to be restored,")
    for reading in plan.readings:
        place = reading.place or direct.get(reading.entry.dump_id)
        if place is None:
            place = site.spool.fetched(reading.entry.dump_id)
            if directory is not None:
                stem = Path(reading.copies[0].place).name.partition(DUMP_SUFFIX)[0]
                place = directory / file_name(stem + DUMP_SUFFIX, of=f"medium {reading.copies[0].medium!r}")
            if from_media or not (place.is_file() and place.stat().st_size == reading.entry.size_bytes):
                _fetch(site, reading, place, report=report)
            elif directory is not None:
                settle_file(place)  # an earlier call that was killed may have brought it
        if place == site.spool.fetched(reading.entry.dump_id):  # now, or by an earlier call that was interrupted
            fetched.append(reading.entry.dump_id)
        places.append(place)
    return Retrieved(state=plan.state, places=tuple(places), fetched=tuple(fetched))


def _begun_bytes(site: Installation, reading: Reading) -> int:
    partial = site.spool.fetched(reading.entry.dump_id)
    partial = partial.with_name(partial.name + ".partial")
    return min(reading.fetch_bytes, partial.stat().st_size) if partial.is_file() else 0


def _open_read(site: Installation, reading: Reading) -> Path | PackFile | None:
    if reading.place is not None or not reading.copies:
        return None
    return site.target(reading.copies[0].target).open_read(reading.copies, reading.entry)


def _fetch(site: Installation, reading: Reading, place: Path, *, report: Report) -> None:
    """Fetch one dump from the copy that was chosen, or from the next best when that one is damaged."""
    entry = reading.entry
    while True:
        try:
            site.target(reading.copies[0].target).fetch(reading.copies, entry, place, report=report)
            return
        except Damaged as error:
            report(Note(severity="note", path=os.fsencode(entry.volume_name), text=str(error)))
            condemn(site, reading.copies, entry, report=report)
            state = State(chain=(entry,), revision=entry.revision)
            try:
                reading = plan_retrieve(site, state, from_media=True, report=report).readings[0]
            except NotFound:
                raise Damaged(f"{error}; there is no other copy of dump {hex_short(entry.dump_id)}") from None


def condemn(site: Installation, copies: Sequence[Copy], entry: DumpEntry, *, report: Report) -> None:
    """Look at each part of a copy that proved damaged, and write down which ones are."""
    target = site.target(copies[0].target)
    at_ns = now_ns()
    checked = []
    for copy in copies:
        try:
            verdict = target.check(copy, entry, report=report)
        except DalError:
            continue
        checked.append(replace(copy, verdict=verdict, checked_at_ns=at_ns))
    if checked and all(copy.verdict == GOOD for copy in checked):
        # Each part is what was written, and yet the whole is not the dump: the copy is worth nothing.
        checked = [replace(copy, verdict=BAD) for copy in checked]
    site.catalog.put_copies(checked or [replace(copy, verdict=BAD, checked_at_ns=at_ns) for copy in copies])


def forget(site: Installation, retrieved: Retrieved) -> None:
    """Give back the room of what was fetched for one restore."""
    site.spool.forget_fetched(list(retrieved.fetched))


def labels_by_target(plan: ChainPlan) -> Mapping[str, list[str]]:
    """Return the media that a plan needs, by target."""
    found: dict[str, list[str]] = {}
    for reading in plan.readings:
        for label in reading.media:
            labels = found.setdefault(reading.copies[0].target, [])
            if label not in labels:
                labels.append(label)
    return found
