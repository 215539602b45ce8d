"""An installation: what a policy names, open: the catalog, the spool and the targets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self
from zoneinfo import ZoneInfo

from dalsegno.archive.catalog import Catalog
from dalsegno.archive.spool import Spool
from dalsegno.archive.targets import Target
from dalsegno.backup.policy import Policy
from dalsegno.terms.errors import NotFound


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """What a policy names, open; used in a `with` block."""

    policy: Policy
    catalog: Catalog
    spool: Spool
    targets: Mapping[str, Target]

    @property
    def zone(self) -> ZoneInfo:
        """Where days begin at midnight."""
        return ZoneInfo(self.policy.timezone)

    def target(self, name: str) -> Target:
        """Return a target by name; NotFound."""
        found = self.targets.get(name)
        if found is None:
            known = ", ".join(self.targets) or "none"
            raise NotFound(f"{self.policy.path}: no target {name!r}; there is {known}")
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.catalog.close()
