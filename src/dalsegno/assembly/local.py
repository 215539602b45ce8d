"""From settings to an open house: the only file that names every concrete class."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

from dalsegno.actions.session import House, author
from dalsegno.backends.address import open_backend
from dalsegno.backends.contract import Backend
from dalsegno.chunks.realm import Realm
from dalsegno.pool.keys import read_realm
from dalsegno.pool.known import Differs, KnownPlace, known_pool, refuse
from dalsegno.pool.pool import Pool
from dalsegno.pool.settings import PoolSettings
from dalsegno.pool.signing_key import OwnSigner
from dalsegno.terms.events import Note, Report, silent
from dalsegno.volumes.rollback import Seen
from dalsegno.volumes.store import Volumes
from dalsegno.world import places
from dalsegno.world.files import is_open_to_all
from dalsegno.world.workers import Workers

WORKERS_MAX = 8


def cache_dir(pool: Pool) -> Path:
    """Return where the scan caches and mounts of a pool are."""
    return places.cache_dir() / pool.pool_id.hex()


def _house(pool: Pool, report: Report, known: KnownPlace | None = None, seen: Seen | None = None) -> House:
    signer = OwnSigner(name=author(), report=report)
    return House(
        pool=pool,
        volumes=Volumes(pool, report=report, seen=seen, sign=signer.sign),
        signer=signer,
        known=known,
        cache_dir=cache_dir(pool),
        report=report,
        workers=Workers(max(1, min(WORKERS_MAX, len(os.sched_getaffinity(0))))),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpsHouse(House):
    """A house of somebody who has dumps and a key, and no pool: an empty one stands in for it while it is open."""

    scratch: TemporaryDirectory[str]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super(DumpsHouse, self).__exit__(kind, error, trace)
        self.scratch.cleanup()


def open_dumps(realm: Realm, *, report: Report = silent) -> House:
    """Open a house in which dumps of a realm can be read, on a machine that has no pool of it."""
    scratch = TemporaryDirectory(prefix="dal-")
    # A sealed one, so that nothing made from these dumps is written in the open.
    key_path = Path(scratch.name) / "stand-in.key"
    pool = Pool.create(Path(scratch.name) / "pool", encryption="keyfile", key_path=key_path)
    pool.realm = realm
    house = _house(pool, report)
    return DumpsHouse(
        pool=pool,
        volumes=house.volumes,
        signer=house.signer,
        cache_dir=Path(scratch.name) / "cache",
        report=report,
        workers=house.workers,
        scratch=scratch,
    )


def open_pool(
    path: Path | str | Backend,
    *,
    passphrase: Callable[[], str] | None = None,
    key_path: Path | None = None,
    is_sealed: bool = False,
    differs: Differs = refuse,
    report: Report = silent,
) -> House:
    """Open the pool at a path or an address, or in a backend. NotFound, NoAccess, Damaged or TooNew say what is wrong.

    `differs` is called with a sentence when the pool is another, or its volumes are older, than this user saw there;
    unless it raises (as it does by default: Refused) the work goes on, and nothing is remembered of it. `is_sealed`:
    NoAccess for a pool that is not encrypted, as when `key_path` is given.
    """
    backend = open_backend(path)
    known = KnownPlace(backend.directory or backend.place, report=report)
    fits = [True]

    def check(settings: PoolSettings) -> None:
        fits[0] = known.check(settings, differs)

    pool = Pool.open(backend, passphrase=passphrase, key_path=key_path, is_sealed=is_sealed, check=check)
    if pool.key_path is not None and is_open_to_all(pool.key_path):
        report(open_key_note(pool.key_path))
    if pool.is_key_ahead:
        report(ahead_note(pool))
    if fits[0]:
        known.remember(known_pool(pool), pool.backend)
    seen = Seen(known.heads(pool.pool_id), pool, place=known.place, differs=differs, remembers=fits[0])
    return _house(pool, report, known, seen)


def open_key_note(path: Path) -> Note:
    """Return what is to be said of a key that everybody may read."""
    text = "everybody on this machine may read this key: chmod 600 it, and think of who may have read it"
    return Note(severity="notice", path=os.fsencode(path), text=text)


def ahead_note(pool: Pool) -> Note:
    """Return what is to be said of a pool that is behind the key that opened it."""
    text = (
        "holds a newer key than the pool has: the change of the key was cut off, or an older pool.toml was put back "
        "by somebody; `dal key rotate` brings the pool to it"
    )
    return Note(severity="notice", path=os.fsencode(pool.key_path or pool.place), text=text)


def create_pool(
    path: Path | str | Backend,
    *,
    encryption: str = "keyfile",
    passphrase: str | None = None,
    key_path: Path | None = None,
    join: Path | None = None,
    report: Report = silent,
) -> House:
    """Make a pool at `path`, which must be absent or empty, and open it; `join` names a key of the realm it joins."""
    realm = read_realm(join) if join is not None else None
    backend = open_backend(path)
    pool = Pool.create(backend, encryption=encryption, passphrase=passphrase, key_path=key_path, realm=realm)
    known = KnownPlace(backend.directory or backend.place, report=report)
    known.remember(known_pool(pool), pool.backend)
    seen = Seen(known.heads(pool.pool_id), pool, place=known.place, differs=refuse, remembers=True)
    return _house(pool, report, known, seen)
