"""From a policy to its open installation: the catalog, the spool, and each target by its kind."""

from collections.abc import Collection
from pathlib import Path

from dalsegno.archive.catalog import Catalog
from dalsegno.archive.command import CommandTarget
from dalsegno.archive.directory import DirectoryTarget
from dalsegno.archive.installation import Installation
from dalsegno.archive.pace import Bandwidth
from dalsegno.archive.parts import Pace, no_pace
from dalsegno.archive.shares import SharesTarget
from dalsegno.archive.spool import Spool
from dalsegno.archive.targets import Ask, Target
from dalsegno.backup.policy import DirectoryPolicy, Policy, SharesPolicy, TargetPolicy
from dalsegno.backup.records import MEDIUM_LOST


def open_target(
    policy: TargetPolicy, *, scratch: Path, ask: Ask | None = None, pace: Pace = no_pace, lost: Collection[str] = ()
) -> Target:
    """Return the target that a policy describes. `ask` is for a terminal: a person is asked for media.

    `lost`: ids of media, in hexadecimal, that were said to be gone for good; where they are they are left alone.
    """
    if isinstance(policy, DirectoryPolicy):
        return DirectoryTarget(policy, ask=ask, pace=pace, lost=lost)
    if isinstance(policy, SharesPolicy):
        return SharesTarget(policy, pace=pace, lost=lost)
    return CommandTarget(policy, scratch=scratch)


def open_installation(policy: Policy, *, ask: Ask | None = None, create: bool = True) -> Installation:
    """Open what a policy names. With `create` False a catalog that is not there is NotFound."""
    limit = policy.limits.bandwidth_bytes
    pace: Pace = Bandwidth(limit) if limit else no_pace
    spool = Spool(policy.spool.path, bytes_max=policy.spool.max_bytes)
    catalog = Catalog.open(policy.catalog_url, create=create)
    lost = {medium.id.hex() for medium in catalog.media() if medium.state == MEDIUM_LOST and medium.id}
    targets = {
        name: open_target(target, scratch=policy.spool.path / "scratch", ask=ask, pace=pace, lost=lost)
        for name, target in policy.targets.items()
    }
    return Installation(policy=policy, catalog=catalog, spool=spool, targets=targets)
