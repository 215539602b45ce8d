"""Bring revisions to a site from whichever of several has them, and ask several sites at once what they hold."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec
import numpy as np

from dalsegno.formats.object_rows import ROW_BYTES, Rows, read_rows, row_ids, row_lengths
from dalsegno.replicas.contract import Site
from dalsegno.replicas.transfer import Transferred, copy, fetch
from dalsegno.terms.errors import DalError, Damaged, NotFound, Unavailable
from dalsegno.terms.events import Report, silent
from dalsegno.terms.sizes import KIB, MIB
from dalsegno.volumes.state import ReplicaSet, VolumeState

GIVES_UP_ON: Final = (Unavailable, NotFound, Damaged)
"""What a source may answer when another one can still do: away, without the revision any more, or rotten."""

FEW_OBJECTS_MAX: Final = 2_000
FEW_BYTES_MAX: Final = 4 * MIB
"""So few objects, of so few bytes, go in one pack and one call."""
UNASKED_BYTES_MAX: Final = 256 * KIB
"""So few are sent without asking which of them are there already."""
NOTHING: Final = Transferred()


def newest_set(states: Iterable[VolumeState], known: ReplicaSet | None = None) -> ReplicaSet | None:
    """Return the replica set with the largest version, wherever it stands, as those have it that hold the volume."""
    sets = [state.replicas for state in states if state.replicas is not None]
    if known is not None:
        sets.append(known)
    newest = max(sets, key=lambda each: each.version, default=None)
    return msgspec.structs.replace(newest, moved_to="") if newest is not None else None


def roles(replicas: ReplicaSet) -> set[str]:
    """Return the names of all servers of a replica set."""
    return {*replicas.writers, *replicas.standbys, *replicas.readers}


def bring(
    volume: str,
    targets: Sequence[bytes],
    bases: Sequence[bytes],
    *,
    sources: Sequence[Site],
    to: Site,
    report: Report = silent,
) -> Transferred:
    """Make `targets` whole at `to`, from the first source that can; the next goes on where one ends in the middle."""
    assert sources and targets
    failure: DalError | None = None
    for source in sources:
        try:
            return copy(source, to, volume, targets, bases, report=report)
        except GIVES_UP_ON as error:
            failure = error
            to.state(volume)  # raises when it is the target that is away
    assert failure is not None
    raise failure


def bring_head(
    volume: str,
    revision: bytes,
    bases: Sequence[bytes],
    *,
    source: Site,
    to: Site,
    common: bytes = b"",
    report: Report = silent,
) -> tuple[VolumeState, Transferred]:
    """Make `revision` whole at `to` and its head, and `common`, which every writer has, too; return the new state.

    Little is asked for once, fetched once and committed in one call: three round trips.
    """
    targets = list(dict.fromkeys([revision, *([common] if common else [])]))
    rows = _few_rows(source.missing(volume, targets, bases), of=source.name)
    if rows is not None:
        done = _commit(volume, revision, rows, source=source, to=to, common=common)
        if done is not None:
            return done
    transferred = bring(volume, targets, bases, sources=[source], to=to, report=report)
    state = to.advance(volume, revision)
    if common and common != state.common:
        to.agree(volume, common)
        state = msgspec.structs.replace(state, common=common)
    return state, transferred


def _few_rows(stream: Iterator[bytes], *, of: str) -> Rows | None:
    """Return the rows when they are few, of few bytes; else None."""
    parts: list[Rows] = []
    count = size = 0
    for rows in read_rows(stream, of=of):
        parts.append(rows)
        count += len(rows)
        size += int(row_lengths(rows).sum())
        if count > FEW_OBJECTS_MAX or size > FEW_BYTES_MAX:
            return None
    return np.concatenate(parts) if parts else np.empty((0, ROW_BYTES), np.uint8)


def _commit(
    volume: str, revision: bytes, rows: Rows, *, source: Site, to: Site, common: bytes
) -> tuple[VolumeState, Transferred] | None:
    """Send a few objects and commit them; None when something that they name is not there after all."""
    asked = 0
    if int(row_lengths(rows).sum()) > UNASKED_BYTES_MAX:
        ids = row_ids(rows)
        answer = np.frombuffer(to.have(volume, ids), np.uint8)
        asked = len(ids) + len(answer)
        rows = rows[answer == 0]
    if not len(rows):
        return to.commit(volume, revision, b"", (), common=common), Transferred(bytes_crossed=asked)
    with fetch(source, volume, row_ids(rows), payload_bytes=int(row_lengths(rows).sum())) as spool:
        try:
            state = to.commit(volume, revision, spool.pack_id(), spool.pieces(), common=common)
        except NotFound:
            return None
        return state, Transferred(
            objects=len(rows),
            bytes_crossed=asked + spool.size_bytes,
            payload_bytes=int(row_lengths(rows).sum()),
        )
