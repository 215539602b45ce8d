"""The open house: what every action needs, put together once by assembly/local.py."""

import os
import pwd
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from dalsegno.pool.known import KnownPlace
from dalsegno.pool.pool import Pool
from dalsegno.pool.signing_key import OwnSigner
from dalsegno.terms.events import Report
from dalsegno.volumes.store import Volumes
from dalsegno.world.errands import Fence
from dalsegno.world.workers import Workers


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """An open pool with its volumes; used in a `with` block, which gives back files and threads."""

    pool: Pool
    volumes: Volumes
    cache_dir: Path
    """Where scan caches of this pool are kept; may be lost at any time."""
    report: Report
    workers: Workers
    signer: OwnSigner | None = None
    """This user's signing key; None: what is made is not signed."""
    known: KnownPlace | None = None
    """What this user remembers of the place of the pool; None where it is a part of a realm."""
    own_places: tuple[Path, ...] = ()
    """Where else this program keeps what is its own, such as a policy's spool: no backup holds it."""
    fence: Fence = field(default_factory=Fence)
    """Shut by who gives up what is being done to the house: a volume's turn that hangs."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.workers.__exit__(kind, error, trace)
        self.pool.close()


def author() -> str:
    """Return who makes a revision, as user@host."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    return f"{user}@{os.uname().nodename}"
