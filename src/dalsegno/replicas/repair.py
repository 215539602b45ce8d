"""Give back to the servers of a volume what they have lost of it, from those that have it, without a commit."""

from collections.abc import Mapping
from dataclasses import dataclass

from dalsegno.replicas.group import Group
from dalsegno.replicas.transfer import Transferred, bring
from dalsegno.replicas.writers import Writers
from dalsegno.terms.errors import DalError, NotFound
from dalsegno.volumes.state import VolumeState

ROUNDS_MAX = 3
"""What one server gets back may be what another one lacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """What a repair did."""

    brought: dict[str, Transferred]
    """What each server got back."""
    failed: dict[str, DalError]
    """Servers that are not whole, as far as is known, or did not answer, and why."""
    servers: tuple[str, ...]
    """Those that were looked at: writers and standbys."""


def repair_replicas(group: Group) -> Repaired:
    """Make heads and clones whole on every server that answers. No head moves; nothing that is whole crosses.

    A server knows that a file is gone; that bytes have rotted it knows once somebody has read them, as a deep check
    does.
    """
    writers = group.writers
    polled = writers.poll(changes=False)
    standbys, away = writers.each(polled.replicas.standbys, lambda site: site.state(writers.volume))
    states = {**polled.states, **standbys}
    brought: dict[str, Transferred] = {}
    failed: dict[str, DalError] = {}
    for _ in range(ROUNDS_MAX):
        before = failed
        failed = {}
        for name in sorted(before or states):
            try:
                done = _repair(writers, states, name)
            except DalError as error:
                failed[name] = error
                continue
            if done.objects:
                brought[name] = brought.get(name, Transferred()) + done
        if not failed or failed.keys() == before.keys():
            break
    return Repaired(brought=brought, failed={**polled.errors, **away, **failed}, servers=tuple(sorted(states)))


def _repair(writers: Writers, states: Mapping[str, VolumeState], name: str) -> Transferred:
    """Bring one server what it lacks of each state that it names; each from the others that name it, too."""
    shares: dict[tuple[str, ...], list[bytes]] = {}
    for revision in _named(states[name]):
        holders = [each for each in states if each != name and revision in _named(states[each])]
        # What nobody else names may be part of another's past.
        shares.setdefault(tuple(holders or (each for each in states if each != name)), []).append(revision)
    done = Transferred()
    failure: DalError | None = None
    for names, revisions in shares.items():
        try:
            if not names:
                raise NotFound(f"volume {writers.volume!r}: no other server answers")
            sources = [writers.site(each) for each in names]
            done += bring(
                writers.volume, revisions, (), sources=sources, to=writers.site(name), report=writers.context.report
            )
        except DalError as error:
            if not _is_whole(writers, name, revisions):
                failure = error
    if failure is not None:
        raise failure
    return done


def _is_whole(writers: Writers, name: str, revisions: list[bytes]) -> bool:
    """Tell whether a server has these, as far as it knows: then it does not matter that nobody else does."""
    try:
        return b"\0" not in writers.site(name).have(writers.volume, b"".join(revisions))
    except DalError:
        return False


def _named(state: VolumeState) -> list[bytes]:
    revisions = [state.head, *(clone.revision for clone in state.clones.values())]
    if state.released is not None:
        revisions.append(state.released.revision)
    return [revision for revision in dict.fromkeys(revisions) if revision]
