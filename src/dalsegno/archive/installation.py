"""A site: what a policy names, open: the catalog, the spool and the targets."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from zoneinfo import ZoneInfo

from dalsegno.archive.catalog import Catalog
from dalsegno.archive.command import CommandTarget
from dalsegno.archive.directory import DirectoryTarget
from dalsegno.archive.pace import Bandwidth
from dalsegno.archive.parts import Pace, no_pace
from dalsegno.archive.shares import SharesTarget
from dalsegno.archive.spool import Spool
from dalsegno.archive.targets import Ask, Target
from dalsegno.backup.policy import DirectoryPolicy, Policy, SharesPolicy, TargetPolicy
from dalsegno.backup.records import MEDIUM_LOST
from dalsegno.terms.errors import NotFound


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """An open site; used in a `with` block."""

    policy: Policy
    catalog: Catalog
    spool: Spool
    targets: Mapping[str, Target]

    @property
    def zone(self) -> ZoneInfo:
        """Where days begin at midnight."""
        return ZoneInfo(self.policy.timezone)

    def target(self, name: str) -> Target:
        """Return a target by name."""
        found = self.targets.get(name)
        if found is None:
            known = ", ".join(self.targets) or "none"
            raise NotFound(f"{self.policy.path}: no target {name!r}; there is {known}")
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.catalog.close()


def open_site(policy: Policy, *, ask: Ask | None = None, create: bool = True) -> Site:
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
    return Site(policy=policy, catalog=catalog, spool=spool, targets=targets)
