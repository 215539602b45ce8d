"""Send a commit to all writers of a volume; it counts when as many have it as the volume's rule asks for."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from dalsegno.formats import objects
from dalsegno.formats.object_rows import read_rows, row_ids, row_lengths
from dalsegno.replicas.catchup import FROZEN_PAUSE_SECONDS, FROZEN_SECONDS_MAX, catch_up
from dalsegno.replicas.contract import BATCH_IDS_MAX, Site
from dalsegno.replicas.replica_sets import set_version
from dalsegno.replicas.sources import SitesSource
from dalsegno.replicas.transfer import Spool, Transferred, copy, fetch
from dalsegno.replicas.writers import WriterPoll, Writers, list_errors, shared_kind
from dalsegno.terms.errors import Conflict, DalError, Diverged, NoAccess, NotFound, Refused, Unavailable, Unsigned
from dalsegno.terms.ids import OBJECT_ID_BYTES, ObjectId
from dalsegno.terms.sizes import MIB
from dalsegno.terms.times import SECOND_NS
from dalsegno.volumes.ancestry import is_ancestor
from dalsegno.volumes.state import WRITER, VolumeState

TRIES_MAX: Final = 8
"""How often a push finds a replica moved on and merges."""
AWAY_NS: Final = 10 * SECOND_NS
"""How long a server that did not answer a push is not asked again while the rule is met without it."""
COMMIT_BYTES_MAX: Final = 32 * MIB
"""A commit with more payload than this goes up in groups instead of in one call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """Where a commit is."""

    revision: bytes
    head: bytes
    """The volume's head, which has `revision` in it; another one when somebody else committed, too."""
    state: VolumeState
    acknowledged: tuple[str, ...]
    missing: dict[str, DalError]
    behind: tuple[str, ...]
    """Writers that answer, but lack more than this commit: `catch_up` brings them here."""
    transferred: Transferred
    merged: tuple[bytes, ...]


class Pusher:
    """Sends one client's commits, one after the other."""

    def __init__(self, writers: Writers) -> None:
        self.writers = writers
        self.common = b""
        """A revision that all writers acknowledged, not yet agreed on."""
        self.away: dict[str, tuple[int, DalError]] = {}
        """Writers that did not answer, and until when they are not asked again."""

    def push(self, revision: bytes) -> Pushed:
        """Bring `revision`, committed at `local`, to all writers that answer; return when the rule is met.

        Unavailable when it is not: the commit stays where it got to, and the next push or catch-up brings it on.
        """
        assert self.writers.local is not None, "a push needs the pool where the commit was made"
        until = self.writers.context.ticks() + FROZEN_SECONDS_MAX * SECOND_NS
        total = Transferred()
        merged: tuple[bytes, ...] = ()
        for _ in range(TRIES_MAX):
            passed_over = bool(self.away)
            sending = _Sending(self, self._poll_for_push(), revision)
            with closing(sending):
                sending.run()
                total += sending.transferred
                while sending.frozen:
                    if self.writers.context.ticks() > until:
                        raise next(iter(sending.frozen.values()))
                    self.writers.context.pause(FROZEN_PAUSE_SECONDS)
                    sending.run_frozen()
            polled, acknowledged, missing = sending.polled, sending.acknowledged, sending.errors
            behind = sending.behind
            head, state = revision, next(iter(acknowledged.values()), None)
            if sending.replicas_changed:
                self.writers.last = None
                continue
            if sending.diverged or (behind and len(acknowledged) < polled.needed):
                caught = catch_up(self.writers, head=revision)
                merged += caught.merged
                for done in caught.brought.values():
                    total += done
                polled, missing, behind = self.writers.last or polled, caught.missing, set()
                head, state = caught.head, caught.state
                acknowledged = {name: polled.states[name] for name in caught.reached}
            self._note_away(missing)
            if len(acknowledged) >= polled.needed and state is not None:
                if acknowledged.keys() == set(polled.replicas.writers):
                    self.common = head
                return Pushed(
                    revision=revision,
                    head=head,
                    state=state,
                    acknowledged=tuple(sorted(acknowledged)),
                    missing=missing,
                    behind=tuple(sorted(behind)),
                    transferred=total,
                    merged=merged,
                )
            self.writers.last = None
            if not passed_over:
                break
            self.away.clear()  # all are asked once more before the commit is given up
        shared = shared_kind(missing)
        kind = shared if shared in (NoAccess, Unsigned) else Unavailable
        raise kind(
            f"volume {self.writers.volume!r}: {len(acknowledged)} of {len(polled.replicas.writers)} writers have "
            f"the commit, {polled.replicas.rule!r} asks for {polled.needed}: {list_errors(missing)}"
        )

    def _poll_for_push(self) -> WriterPoll:
        now = self.writers.context.ticks()
        last = self.writers.last
        for name in [name for name, (until, _) in self.away.items() if until <= now]:
            del self.away[name]
            last = None
        if last is None or len(last.states) < last.needed:
            last = self.writers.poll()
            self._note_away(last.errors)
        return last

    def _note_away(self, errors: Mapping[str, DalError]) -> None:
        for name, error in errors.items():
            if name not in self.away:
                self.away[name] = self.writers.context.ticks() + AWAY_NS, error

    def increment(self, revision: bytes, base: bytes) -> Spool | None:
        """Return a pack of what `revision` has and `base`, which it comes from, has not; None when that is large."""
        local = self.writers.local
        assert local is not None
        ids, size = bytearray(), 0
        for rows in read_rows(local.missing(self.writers.volume, [revision], [base] if base else []), of="this pool"):
            ids += row_ids(rows)
            size += int(row_lengths(rows).sum())
            if size > COMMIT_BYTES_MAX or len(ids) > BATCH_IDS_MAX * OBJECT_ID_BYTES:
                return None
        return fetch(local, self.writers.volume, bytes(ids))


class _Sending:
    """One commit on its way to all writers that answered last."""

    def __init__(self, pusher: "Pusher", polled: WriterPoll, revision: bytes) -> None:
        self.polled = polled
        self.acknowledged: dict[str, VolumeState] = {}
        self.errors: dict[str, DalError] = {**polled.errors}
        self.frozen: dict[str, DalError] = {}
        self.behind: set[str] = set()
        self.diverged = False
        self.replicas_changed = False
        self.transferred = Transferred()
        self._pusher = pusher
        self._revision = revision
        self._packs: dict[bytes, Spool | None] = {}
        """Head: what the commit adds to it; None when that is much."""
        self._lines: set[bytes] = set()
        """Heads that lie far behind the commit."""

    def run(self) -> None:
        """Send the commit to every writer whose head it follows."""
        pusher, writers = self._pusher, self._pusher.writers
        source = writers.source(self.polled.states)
        for name, (_, error) in pusher.away.items():
            self.errors[name] = error
        waiting = []
        for name, state in self.polled.states.items():
            if state.head == self._revision:
                self.acknowledged[name] = state
            elif name not in pusher.away:
                waiting.append(name)
        parents = set(objects.decode_revision(source.get(ObjectId(self._revision))).parents)
        for name in list(waiting):
            head = self.polled.states[name].head
            if head in self._packs or head in self._lines:
                continue
            is_next = head in parents or not (head or parents)
            if not is_next and head and not self._comes_from(source, head):
                continue
            try:
                # More than this commit may be missing there; what is small goes with it.
                spool = pusher.increment(self._revision, head) if head or is_next else None
            except (NotFound, Unavailable):
                is_next, spool = False, None  # this client's own pool cannot tell: let servers bring one another up
            if spool is not None or is_next:
                self._packs[head] = spool
            else:
                self._lines.add(head)
        following = [name for name in waiting if self.polled.states[name].head in self._packs]
        self.behind.update(name for name in waiting if self.polled.states[name].head in self._lines)
        self.diverged = len(following) + len(self.behind) < len(waiting)
        self._send(following)

    def _comes_from(self, source: SitesSource, head: bytes) -> bool:
        try:
            return is_ancestor(source, head, self._revision)
        except (NotFound, Unavailable):
            return False

    def run_frozen(self) -> None:
        """Try again where the volume was frozen."""
        names = sorted(self.frozen)
        self.frozen = {}
        self._send(names)

    def _send(self, names: Sequence[str]) -> None:
        if not names:
            return
        pusher, writers = self._pusher, self._pusher.writers
        common = pusher.common or self._agreed()
        results, errors = writers.each(names, lambda site: self._commit(site, common))
        for name, (state, done) in results.items():
            self.transferred += done
            self.polled.states[name] = state
            if set_version(state) > self.polled.replicas.version:
                self.replicas_changed = True
            elif state.role in ("", WRITER):
                self.acknowledged[name] = state
            else:
                self.errors[name] = Refused(f"{name}: is no writer of this volume any more")
        for name, error in errors.items():
            if isinstance(error, Diverged):
                self.diverged = True
            elif isinstance(error, Conflict):
                self.frozen[name] = error
            elif isinstance(error, NotFound):
                self.behind.add(name)
                writers.last = None
            else:
                self.errors[name] = error
                if not isinstance(error, Unavailable):
                    writers.last = None

    def _agreed(self) -> bytes:
        """Return the head that all writers were seen at, unless they know."""
        heads = self.polled.heads
        if len(heads) != 1 or self.polled.errors or not self.polled.replicas.version:
            return b""
        head = next(iter(heads))
        return head if any(state.common != head for state in self.polled.states.values()) else b""

    def _commit(self, site: Site, common: bytes) -> tuple[VolumeState, Transferred]:
        writers = self._pusher.writers
        head = self.polled.states[site.name].head
        spool = self._packs[head]
        if spool is None:
            assert writers.local is not None
            done = copy(
                writers.local,
                site,
                writers.volume,
                [self._revision],
                [head] if head else [],
                report=writers.context.report,
            )
            return site.commit(writers.volume, self._revision, b"", (), common=common), done
        done = Transferred(bytes_crossed=spool.size_bytes)
        try:
            state = site.commit(writers.volume, self._revision, spool.pack_id(), spool.pieces(), common=common)
        except NoAccess:
            if not common:
                raise
            state = site.commit(writers.volume, self._revision, spool.pack_id(), spool.pieces())
        return state, done

    def close(self) -> None:
        """Give the room back."""
        for spool in self._packs.values():
            if spool is not None:
                spool.close()
