"""Whether a volume is as new as when it was seen last: a head moves forward only, so an older one was put back.

`line_between` walks; `Seen` decides from it and remembers. What cannot be told, because revisions in between were
thinned out and collected, is believed as far as times go: a revision is later than its parents.
"""

from collections.abc import Mapping
from typing import Final

from dalsegno.pool.contract import Source
from dalsegno.pool.known import HOW_TO_ACCEPT, Differs, KnownHead, KnownHeads
from dalsegno.pool.pool import Pool
from dalsegno.terms.times import show_time
from dalsegno.volumes.ancestry import find_revision
from dalsegno.volumes.dates import is_future
from dalsegno.volumes.state import AUTOMATIC, READER, VolumeState, state_ref
from dalsegno.world.clock import now_ns

WALK_MAX: Final = 10_000
"""Revisions that are read to find a known one behind a head; longer lines are believed."""
LINES_MAX: Final = 16
"""Lines of one volume that are remembered: copies of a pool that are used in turn at one place."""


def line_between(source: Source, old: KnownHead, new: bytes, *, steps_max: int = WALK_MAX) -> bool | None:
    """Tell whether `new` is `old` or comes after it; None when a revision between them is not here to tell."""
    if old.head in (new, b"") or is_future(old.created_ns, now_ns=now_ns()):
        # A head of the future ends a volume, and was taken away by who reopened it: the counter tells what is older.
        return True
    newest = find_revision(source, new) if new else None
    if newest is not None and old.head in newest.parents:
        return True
    seen = find_revision(source, old.head)
    # A mount's next commit takes the place of the one before, and comes after what that came after.
    replaced = set(seen.parents) if seen is not None and seen.message == AUTOMATIC else None
    if newest is None:
        return None if new else False
    if newest.created_ns <= old.created_ns:
        return False
    # One that is not here any more was thinned out, or another took its place: nobody can tell which.
    stack, met, is_broken = [newest], {new}, seen is None
    while stack:
        child = stack.pop()
        if old.head in child.parents or (child.message == AUTOMATIC and set(child.parents) == replaced):
            return True
        for identity in child.parents:
            if identity in met:
                continue
            met.add(identity)
            parent = find_revision(source, identity)
            if parent is None or len(met) > steps_max:
                is_broken = True
            elif old.created_ns < parent.created_ns < child.created_ns:
                stack.append(parent)
    return None if is_broken else False


class Seen:
    """What was seen of the volumes of a pool at its place, and what happens when one is older."""

    def __init__(self, heads: KnownHeads, source: Pool, *, place: str, differs: Differs, remembers: bool) -> None:
        self.heads = heads
        self._source = source
        self._place = place
        self._differs = differs
        self._remembers = remembers
        self._told: set[bytes] = set()

    def takes(self, state: VolumeState, known: Mapping[int, KnownHead]) -> bool:
        """Tell whether a state is one of the `known` ones or comes after one, and remember it; `known` came first."""
        if not known:
            if self.heads.removed_ns(state.id) is not None:
                return False
            self._put_seen(state, 0)
            return True
        if any((each.head, each.counter) == (state.head, state.counter) for each in known.values()):
            return True
        unsure = None
        for line, each in sorted(known.items(), key=lambda item: (-item[1].created_ns, -item[1].counter)):
            if state.counter < each.counter:
                continue
            # What a read-only site shows is released by name, older states included.
            follows = state.role == READER or line_between(self._source, each, state.head)
            if follows:
                self._put_seen(state, line)
                return True
            if follows is None and unsure is None:
                unsure = line
        if unsure is not None:
            self._put_seen(state, unsure)
        return unsure is not None

    def tell(self, state: VolumeState) -> None:
        """Say, once for each volume, that this is not what was here."""
        if state.id not in self._told:
            known = self.heads.of(state.id).values()
            removed_ns = self.heads.removed_ns(state.id)
            if not known and removed_ns is not None:
                text = f"volume {state.name!r} was removed on {show_time(removed_ns)}, and is there again"
                self._differs(f"{self._place}: {text}: {HOW_TO_ACCEPT}")
                self._told.add(state.id)
                return
            newest = max(known, key=lambda each: each.created_ns)
            self._differs(f"{self._place}: {self._difference(state, newest)}: {HOW_TO_ACCEPT}")
            self._told.add(state.id)  # when that ended the command, it does so again

    def _difference(self, state: VolumeState, newest: KnownHead) -> str:
        revision = find_revision(self._source, state.head) if state.head else None
        seen = f"seen here on {show_time(newest.at_ns)}"
        if state.head == newest.head:
            return (
                f"volume {state.name!r} is older than it was: its state is number {state.counter}, number "
                f"{newest.counter} was {seen}, and clones, holds or settings are those of before"
            )
        now = f"its newest state is of {show_time(revision.created_ns)}" if revision is not None else "it has no state"
        was = f"of {show_time(newest.created_ns)}" if newest.created_ns else "another"
        if revision is not None and revision.created_ns > newest.created_ns:
            text = f"volume {state.name!r} was put back and went another way: {now} and does not come after"
        else:
            text = f"volume {state.name!r} is older than it was: {now},"
        return f"{text} the one that was {seen} was {was}"

    def wrote(self, before: VolumeState | None, after: VolumeState) -> None:
        """Remember what this process made of a volume."""
        known = self.heads.of(after.id)
        if before is None:
            self._put(after, 0, force=True)
            return
        fitting = {line: each for line, each in known.items() if each.head == before.head}
        if fitting:
            line = max(fitting, key=lambda line: (fitting[line].counter <= before.counter, fitting[line].counter))
            self._put(after, line, force=True)

    def forget(self, volume_id: bytes) -> None:
        """Forget a volume that this process removed."""
        if self._remembers:
            self.heads.forget(volume_id)

    def accept(self, state: VolumeState) -> None:
        """Remember a state as one that may be here beside those that were."""
        known = self.heads.of(state.id)
        if any((each.head, each.counter) == (state.head, state.counter) for each in known.values()):
            return
        free = next((line for line in range(LINES_MAX) if line not in known), None)
        if free is None:
            free = min(known, key=lambda line: known[line].at_ns)
        self._put_seen(state, free, force=True)

    def _put_seen(self, state: VolumeState, line: int, *, force: bool = False) -> None:
        """Remember what somebody else wrote once it is durable: what the power takes away was never newer."""
        if self._remembers and self.heads.is_settled(lambda: self._source.settle_seen_ref(state_ref(state.id))):
            self._put(state, line, force=force)

    def _put(self, state: VolumeState, line: int, *, force: bool = False) -> None:
        if not self._remembers:
            return
        known = self.heads.of(state.id).get(line)
        if known is not None and known.head == state.head:
            made_ns = known.created_ns
        else:
            revision = find_revision(self._source, state.head) if state.head else None
            made_ns = revision.created_ns if revision is not None else 0
        head = KnownHead(head=state.head, created_ns=made_ns, counter=state.counter, at_ns=now_ns())
        self.heads.put(state.id, line, head, force=force)
