"""Clone a replicated volume as one: freeze all writers, bring them to one head, name it on each, let them go on."""

from dataclasses import dataclass
from typing import Final

from dalsegno.formats.objects import Revision
from dalsegno.replicas.catchup import FROZEN_PAUSE_SECONDS, ROUNDS_MAX, Tally, bring_heads, catch_up
from dalsegno.replicas.histories import keeps
from dalsegno.replicas.writers import WriterPoll, Writers, list_errors, shared_kind
from dalsegno.terms.errors import AlreadyThere, Conflict, DalError, NoAccess, Refused, Unavailable
from dalsegno.terms.times import time_name
from dalsegno.volumes.ancestry import find_revision
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.state import VolumeState
from dalsegno.volumes.store import check_clone_name

FREEZE_TRIES_MAX: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloned:
    """A clone of one revision on several writers."""

    name: str
    clone: Clone
    cloned: tuple[str, ...]
    missing: dict[str, DalError]
    rule: str
    needed: int
    pause_ns: int
    """From the first freeze to the last thaw: how long writers may have waited."""


def freeze_and_clone(
    writers: Writers, name: str | None = None, created_ns: int | None = None, *, automatic: bool = False
) -> Cloned:
    """Name one revision on all writers that answer, which are frozen meanwhile.

    Unavailable, and nothing is cloned, when fewer answer than the volume's rule asks for; Conflict when somebody
    else has the volume frozen for long. Whatever happens the volume thaws, at the latest when the leases end.
    `automatic`: no person chose `name`.
    """
    if name is not None:
        check_clone_name(name)
    polled = writers.poll()
    writers.require_rule(polled)
    if len(polled.heads) > 1:
        catch_up(writers)  # the long part, while everybody goes on writing
        polled = writers.last or writers.poll()
    automatic = automatic or name is None
    name, created_ns = _settle_clone(writers, polled, name, created_ns)
    tried: set[str] = set()
    known = _known_revision(writers, polled)
    started = writers.context.ticks()
    ended = started
    try:
        frozen, errors, started = _freeze(writers, polled, tried)
        clone = _clone_frozen(writers, name, created_ns, frozen, errors, polled, known, automatic=automatic)
    finally:
        if tried:
            writers.each(sorted(tried), lambda site: site.thaw(writers.volume, owner=writers.context.owner))
            ended = writers.context.ticks()
        writers.last = None
    cloned, missing = clone[1], clone[2]
    return Cloned(
        name=name,
        clone=clone[0],
        cloned=tuple(sorted(cloned)),
        missing=missing,
        rule=polled.replicas.rule,
        needed=polled.needed,
        pause_ns=ended - started,
    )


def _known_revision(writers: Writers, polled: WriterPoll) -> tuple[bytes, Revision | None]:
    """Return the head as it is before anybody has to wait, and what it says of itself, if it can be read."""
    head = min(polled.heads, default=b"")
    try:
        return head, find_revision(writers.source(polled.states), head) if head else None
    except (Unavailable, NoAccess):
        return head, None


def _settle_clone(writers: Writers, polled: WriterPoll, name: str | None, created_ns: int | None) -> tuple[str, int]:
    if not any(state.head for state in polled.states.values()):
        raise Refused(f"volume {writers.volume!r} is empty: import or back up something first")
    created_ns = writers.context.clock() if created_ns is None else created_ns
    taken = polled.clone_names
    if name is not None:
        if name in taken:
            raise AlreadyThere(
                f"clone {writers.volume}@{name} exists already: choose another name, or unclone it first"
            )
        # A clone is told from an earlier one of its name by its time.
        for state in polled.states.values():
            for earlier in state.uncloned.get(name, ()):
                created_ns = max(created_ns, earlier.created_ns + 1)
        return name, created_ns
    wanted = time_name(created_ns)
    free, number = wanted, 2
    while free in taken:
        free, number = f"{wanted}-{number}", number + 1
    return free, created_ns


def _freeze(
    writers: Writers, polled: WriterPoll, tried: set[str]
) -> tuple[dict[str, VolumeState], dict[str, DalError], int]:
    """Freeze all writers that answer, the first by name before the others: who has it goes on, others wait."""
    holder: DalError | None = None
    for _ in range(FREEZE_TRIES_MAX):
        names = sorted(polled.states)
        started = writers.context.ticks()
        frozen: dict[str, VolumeState] = {}
        errors: dict[str, DalError] = dict(polled.errors)
        busy: DalError | None = None
        for part in (names[:1], names[1:]):
            tried.update(part)
            found, failed = writers.each(part, lambda site: site.freeze(writers.volume, owner=writers.context.owner))
            frozen.update(found)
            errors.update(failed)
            busy = next((error for error in failed.values() if isinstance(error, Conflict)), None)
            if busy is not None:
                break
        if busy is None:
            return frozen, errors, started
        holder = busy
        writers.each(sorted(tried), lambda site: site.thaw(writers.volume, owner=writers.context.owner))
        tried.clear()
        writers.context.pause(FROZEN_PAUSE_SECONDS * (0.5 + 2 * writers.context.randomness()))
    assert holder is not None
    raise holder


def _clone_frozen(
    writers: Writers,
    name: str,
    created_ns: int,
    frozen: dict[str, VolumeState],
    errors: dict[str, DalError],
    polled: WriterPoll,
    known: tuple[bytes, Revision | None],
    *,
    automatic: bool,
) -> tuple[Clone, set[str], dict[str, DalError]]:
    names = set(frozen)
    if len({state.head for state in frozen.values()}) > 1:
        tally = Tally()
        for _ in range(ROUNDS_MAX):
            if not bring_heads(
                writers, {each: frozen[each] for each in names}, b"", tally, owner=writers.context.owner
            ):
                break
            names -= tally.failed.keys()
            found, failed = writers.each(sorted(names), lambda site: site.state(writers.volume))
            frozen.update(found)
            tally.failed.update(failed)
            names -= failed.keys()
        errors.update(tally.failed)
    heads = {frozen[each].head for each in names}
    if len(names) < polled.needed or len(heads) != 1:
        kind = NoAccess if not names and shared_kind(errors) is NoAccess else Unavailable
        raise kind(
            f"volume {writers.volume!r}: {len(names)} of {len(polled.replicas.writers)} writers could be frozen at one "
            f"state, {polled.replicas.rule!r} asks for {polled.needed}; nothing was cloned: {list_errors(errors)}"
        )
    revision = known[1] if known[0] in heads else None
    clone = Clone(
        revision=heads.pop(),
        created_ns=created_ns,
        automatic=automatic,
        entry_count=revision.entry_count if revision is not None else None,
        total_bytes=revision.total_bytes if revision is not None else None,
    )
    patterns = polled.replicas.clones
    keeping = {each for each in names if keeps(patterns.get(each), frozen[each].clones.put(name, clone), name)}
    keeping = keeping or names
    done, failed = writers.each(sorted(keeping), lambda site: site.clone(writers.volume, name, clone))
    errors.update(failed)
    if len(done) + len(names - keeping) < polled.needed or not done:
        # Also where no answer came: it may have been done, and must not come back.
        writers.each(sorted(keeping), lambda site: site.unclone(writers.volume, name, clone))
        raise Unavailable(
            f"volume {writers.volume!r}: {len(done)} of {len(polled.replicas.writers)} writers cloned, "
            f"{polled.replicas.rule!r} asks for {polled.needed}; nothing was cloned: {list_errors(errors)}"
        )
    return clone, set(done), errors
