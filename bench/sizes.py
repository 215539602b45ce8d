"""How much is measured: the sizes that are published, a quick run's, and tiny ones with which tests run every part."""

from dataclasses import dataclass
from typing import Final

MIB: Final = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What each part is given."""

    runs: int = 3
    tree_files: int = 70_000
    tree_bytes: int = 1_100_000_000
    million: int = 1_000_000
    """Files in the very large volume; 0: none."""
    versions: int = 30
    """Of the database; 0: none."""
    catalog: int = 1_000_000
    """Dumps in the large catalog; 0: neither that nor the archive nor the cycle."""
    archive_bytes: int = 1024 * MIB
    cycle_volumes: int = 1000
    cycle_planned: int = 10_000
    mount_megabytes: int = 1024
    mount_small_files: int = 10_000
    """What is written through a mount; half of them are read."""
    mount_many: int = 1_000_000
    replication_many: int = 1_000_000
    feed_seconds: int = 60
    feed_files: int = 3_000
    """In the volume that is committed again and again."""
    commits: int = 60
    entries: int = 150_000
    """Of each odd shape."""
    names: int = 1_500_000
    """In the tree of very many hard links; 0: none."""
    keeps_caches: bool = False
    """Whether the machine's caches are left alone; figures of cold readings mean nothing then."""


FULL: Final = Sizes()
QUICK: Final = Sizes(
    runs=1,
    tree_files=3_000,
    tree_bytes=30_000_000,
    million=0,
    versions=4,
    catalog=20_000,
    archive_bytes=32 * MIB,
    cycle_volumes=50,
    mount_megabytes=32,
    mount_many=20_000,
    replication_many=20_000,
    feed_seconds=5,
    entries=3_000,
    names=0,
)
TINY: Final = Sizes(
    runs=1,
    tree_files=100,
    tree_bytes=100_000,
    million=200,
    versions=2,
    catalog=1_000,
    archive_bytes=1 * MIB,
    cycle_volumes=2,
    cycle_planned=10,
    mount_megabytes=1,
    mount_small_files=200,
    mount_many=400,
    replication_many=100,
    feed_seconds=1,
    feed_files=10,
    commits=2,
    entries=60,
    names=0,
    keeps_caches=True,
)
