"""When a writable mount's changes become a revision: on fsync, after a few seconds, when much waits, and when asked."""

import traceback
from collections.abc import Callable
from typing import Final

from dalsegno.actions import mount as actions
from dalsegno.actions.mount import Tree
from dalsegno.actions.session import House
from dalsegno.chunks.cut import Cutter
from dalsegno.formats import fuse
from dalsegno.formats.fuse import Header
from dalsegno.mount.changes import Changes
from dalsegno.mount.session import Answer, Log, Method
from dalsegno.mount.snapshot import store
from dalsegno.pool.contract import Sink
from dalsegno.terms.errors import Conflict, DalError, Full
from dalsegno.terms.sizes import MIB
from dalsegno.terms.times import SECOND_NS
from dalsegno.world.clock import now_ns, pause
from dalsegno.world.workers import new_lock

RISK_SECONDS_MAX: Final = 5
COMMIT_SECONDS: Final = 3
"""How old a change grows before it is committed: the rest is for the commit itself."""
LOOK_SECONDS: Final = 0.25
RETRY_SECONDS: Final = 5
REFRESH_SECONDS: Final = 60
FROZEN_SECONDS: Final = 0.5
FROZEN_TRIES_MAX: Final = 120
"""A volume is frozen while all its replicas are cloned: who syncs meanwhile waits, a minute at most."""
FULL_SECONDS: Final = 0.1
FULL_TRIES_MAX: Final = 10
"""The kernel says a little later than the one who removed it that nobody uses a file any more."""
SPOOL_BYTES_SOON: Final = 128 * MIB
"""From here on a commit begins at once."""
SPOOL_BYTES_MAX: Final = 1024 * MIB
"""From here on writers wait for a commit."""
assert COMMIT_SECONDS < RISK_SECONDS_MAX and SPOOL_BYTES_SOON < SPOOL_BYTES_MAX


def is_due(now_ns: int, *, dirty_since_ns: int, spooled_bytes: int, failed_ns: int) -> bool:
    """Return whether to commit now: the oldest change is old, or much waits, and no try failed just before.

    `dirty_since_ns`: when the oldest change was made, 0 for none. `failed_ns`: when the last try failed, or 0.
    """
    if failed_ns and now_ns - failed_ns < RETRY_SECONDS * SECOND_NS:
        return False
    old = bool(dirty_since_ns) and now_ns - dirty_since_ns >= COMMIT_SECONDS * SECOND_NS
    return old or spooled_bytes > SPOOL_BYTES_SOON


class Committer:
    """Commits one mounted volume, one commit at a time; whoever comes meanwhile waits, and often finds all done."""

    def __init__(
        self, house: House, volume_id: bytes, changes: Changes, methods: dict[int, Method], *, head: bytes, log: Log
    ) -> None:
        self.head = head
        self.ended = False
        self._house = house
        self._volume_id = volume_id
        self._changes = changes
        self._log = log
        self._turn = new_lock()
        self._refreshed_ns = 0
        self._write = methods[fuse.WRITE]
        methods.update(
            {fuse.FSYNC: self._sync, fuse.FSYNCDIR: self._sync, fuse.SYNCFS: self._sync, fuse.WRITE: self._write_paced}
        )

    def _sync(self, header: Header, body: fuse.Fsync) -> Answer:
        if self._changes.is_ours(header.node):
            self.commit()
        return None

    def _write_paced(self, header: Header, body: fuse.Write) -> Answer:
        if self._changes.spooled_bytes > SPOOL_BYTES_MAX:
            self.commit()
        return self._write(header, body)

    def commit(self) -> None:
        """Make everything that was changed until now durable; raises what kept it from that, and nothing is lost."""
        full_tries = 0
        with self._turn:
            for _ in range(FROZEN_TRIES_MAX):
                try:
                    return self._commit()
                except Conflict:
                    pause(FROZEN_SECONDS)
                except Full:
                    with self._changes.lock:
                        has_room = self._changes.trim_spool()
                    if not has_room:
                        full_tries += 1
                        if full_tries > FULL_TRIES_MAX:
                            raise
                        pause(FULL_SECONDS)
            return self._commit()

    def _commit(self) -> None:
        changes = self._changes
        snapshot = changes.freeze()
        if snapshot is None:
            return

        def build(sink: Sink) -> Tree:
            cutter = Cutter(self._house.pool.realm.chunk_seed)
            root, links = store(snapshot, source=changes.source, sink=sink, cutter=cutter, spooled=changes.spooled)
            return Tree(root=root, links=links, entry_count=snapshot.entry_count, total_bytes=snapshot.total_bytes)

        refresh = now_ns() - self._refreshed_ns >= REFRESH_SECONDS * SECOND_NS
        try:
            done = actions.commit_tree(self._house, self._volume_id, build, head=self.head, refresh=refresh)
        except BaseException:
            changes.restore(snapshot)
            raise
        self.head = done.revision
        self._refreshed_ns = now_ns() if refresh else self._refreshed_ns
        changes.thaw(snapshot)
        if done.displaced:
            self._log(f"somebody else committed to this volume: that state is kept as clone {done.displaced}")

    def run(self, besides: Callable[[], None]) -> None:
        """Commit by the clock until `ended`; do what else must be done now and then."""
        failed_ns = 0
        while not self.ended:
            pause(LOOK_SECONDS)
            besides()
            if is_due(
                now_ns(),
                dirty_since_ns=self._changes.dirty_since_ns,
                spooled_bytes=self._changes.spooled_bytes,
                failed_ns=failed_ns,
            ):
                failed_ns = 0 if self._try() else now_ns()

    def _try(self) -> bool:
        try:
            self.commit()
        except (DalError, OSError) as error:
            self._log(f"not committed, tried again in {RETRY_SECONDS} s: {error}")
            return False
        except Exception:
            # To end here would end all commits to come, and nobody would know.
            trace = traceback.format_exc()
            self._log(f"not committed, tried again in {RETRY_SECONDS} s: internal error, please report it: {trace}")
            return False
        return True
