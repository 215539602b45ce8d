"""From settings to an open house: the only file that names every concrete class."""

import os
from collections.abc import Callable
from pathlib import Path

from dalsegno.actions.house import House
from dalsegno.pool.keys import read_realm
from dalsegno.pool.pool import Pool
from dalsegno.terms.events import Report, silent
from dalsegno.volumes.store import Volumes
from dalsegno.world import places
from dalsegno.world.workers import Workers

WORKERS_MAX = 8


def cache_dir(pool: Pool) -> Path:
    """Return where the scan caches and mounts of a pool are."""
    return places.cache_dir() / pool.pool_id.hex()


def _house(pool: Pool, report: Report) -> House:
    return House(
        pool=pool,
        volumes=Volumes(pool, report=report),
        cache_dir=cache_dir(pool),
        report=report,
        workers=Workers(max(1, min(WORKERS_MAX, len(os.sched_getaffinity(0))))),
    )


def open_pool(
    path: Path | str,
    *,
    passphrase: Callable[[], str] | None = None,
    key_path: Path | None = None,
    report: Report = silent,
) -> House:
    """Open the pool at `path`. NotFound, NoAccess, Damaged or TooNew say what is wrong."""
    return _house(Pool.open(Path(path), passphrase=passphrase, key_path=key_path), report)


def create_pool(
    path: Path | str,
    *,
    encryption: str = "keyfile",
    passphrase: str | None = None,
    key_path: Path | None = None,
    join: Path | None = None,
    report: Report = silent,
) -> House:
    """Make a pool at `path`, which must be absent or empty, and open it; `join` names a key of the realm it joins."""
    realm = read_realm(join) if join is not None else None
    pool = Pool.create(Path(path), encryption=encryption, passphrase=passphrase, key_path=key_path, realm=realm)
    return _house(pool, report)
