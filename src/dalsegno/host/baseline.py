"""What a scan compares a directory with: the revision before, where to read it, and the cache of the scan before."""

from collections.abc import Callable
from dataclasses import dataclass

from dalsegno.formats.objects import Revision
from dalsegno.host.cache import ScanCache
from dalsegno.pool.contract import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The revision before. From it files carry on their node numbers and birth times, and all that is unchanged."""

    revision: Revision
    source: Source
    """Where the revision's objects are read."""
    cache: ScanCache | None = None
    """What the scan that became this very revision saw; without it every file is read."""
    relies: Callable[[bytes], bool] | None = None
    """Where something in `source` is lost: tells whether a directory of the cache is there with all that it names."""
