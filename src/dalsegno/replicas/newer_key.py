"""A realm's key that was changed, as a client gets it: from a server that says so, once, before it goes on."""

from collections.abc import Callable
from pathlib import Path

from dalsegno.chunks.realm import Realm
from dalsegno.pool.generations import change_key, finish_change
from dalsegno.pool.holders import renewed_holders
from dalsegno.pool.keys import read_key, renew_key_file
from dalsegno.pool.pool import Pool
from dalsegno.pool.settings import Holder, PoolSettings
from dalsegno.terms.errors import Conflict, DalError
from dalsegno.terms.events import Note, Report, silent
from dalsegno.world.clock import now_ns
from dalsegno.world.workers import new_lock


def bring_forward(pool: Pool, key_path: Path) -> None:
    """Let a cache's pool have the key of the key file that opens it, which may be newer."""
    realm = pool.realm
    key = read_key(key_path, realm.realm_id)
    if key.only_writes:
        realm.take(key)
        return

    def prepare(settings: PoolSettings) -> tuple[Realm, tuple[Holder, ...]]:
        return key, renewed_holders(settings, key, opened_by=None, passphrase=None, has_key_file=True)[0]

    if key.generation > realm.generation:
        try:
            change_key(pool.backend, realm, now_ns=now_ns(), prepare=prepare)
        except Conflict:
            pass  # another process of this user did it at this moment
    if pool.settings.refs_since < key.generation:
        finish_change(pool)


class NewerKey:
    """Takes the newer key of a realm from the first server that has one, for all that use it in this process.

    May be called from several threads. What goes wrong is said once; then the work goes on with the key as it was, and
    the next command tries again.
    """

    def __init__(self, key_path: Path, realm: Realm, *, report: Report = silent) -> None:
        self.pool: Pool | None = None
        """The cache's pool, once it is open."""
        self._key_path = key_path
        self._realm = realm
        self._report = report
        self._lock = new_lock()
        self._tried = realm.generation

    def __call__(self, generation: int, ask: Callable[[], Realm]) -> None:
        """Get the key by `ask` when a server has one of a newer generation."""
        if generation <= self._tried:
            return
        with self._lock:
            if generation <= self._tried:
                return
            self._tried = generation  # also for the answer to `ask`, which says the same
            try:
                self._take(ask())
            except DalError as error:
                text = f"the key of the realm was changed, and the new one cannot be taken: {error}"
                self._report(Note(severity="error", path=bytes(self._key_path), text=text))

    def _take(self, key: Realm) -> None:
        renew_key_file(self._key_path, key)  # refuses what does not follow from the key that is there
        if self.pool is not None:
            bring_forward(self.pool, self._key_path)
        self._realm.take(read_key(self._key_path, self._realm.realm_id))
