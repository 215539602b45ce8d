"""A site: a policy with its catalog, spool and targets, open. Put together by assembly.py."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from zoneinfo import ZoneInfo

from dalsegno.backup.catalog import Catalog
from dalsegno.backup.policy import Policy
from dalsegno.backup.spool import Spool
from dalsegno.backup.targets import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What the backup cycle works with, besides the pool; used in a `with` block."""

    policy: Policy
    catalog: Catalog
    spool: Spool
    targets: Mapping[str, Target]

    @property
    def zone(self) -> ZoneInfo:
        """Where days begin at midnight."""
        return ZoneInfo(self.policy.timezone)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.catalog.close()
