"""Prune: remove the clones, spool files and archived dumps that the policy's retention no longer keeps."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dalsegno.actions.session import House
from dalsegno.archive.installation import Installation
from dalsegno.backup.members import Member
from dalsegno.backup.prune_plan import ARCHIVE, CLONES, Coming, PrunePlan, Removal, plan_prune
from dalsegno.backup.records import SPOOL_TARGET
from dalsegno.dumps.plan import forget_dump
from dalsegno.terms.errors import DalError, NotFound, Refused, Unavailable
from dalsegno.volumes.state import VolumeState
from dalsegno.world.files import remove_durable


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneResult:
    """What was removed, and what could not be."""

    removed: list[Removal] = field(default_factory=list)
    waiting: list[tuple[Removal, str]] = field(default_factory=list)
    """Whose medium is away: they go when it is back."""
    failed: list[tuple[Removal, str]] = field(default_factory=list)


def find_removals(
    site: Installation,
    states: Iterable[VolumeState],
    members: Iterable[Member],
    *,
    now_ns: int,
    coming: Mapping[str, list[Coming]] | None = None,
    volume_id: bytes | None = None,
) -> PrunePlan:
    """Return what retention would remove at `now_ns`, by the catalog; of one volume if it is named."""
    dumps = site.catalog.dumps(volume_id)
    copies = site.catalog.copies_of(entry.dump_id for entry in dumps)
    return plan_prune(site.policy, states, members, dumps=dumps, copies=copies, now_ns=now_ns, coming=coming)


def run_prune(house: House, site: Installation | None, plan: PrunePlan) -> PruneResult:
    """Remove what a plan says. The caller holds the coordinator's lock, and made the plan under it.

    A plan of clones alone needs neither site nor lock.
    """
    result = PruneResult()
    uncloned = _unclone_all(house, [removal for removal in plan.removals if removal.place == CLONES])
    for removal in plan.removals:
        try:
            if removal.place == CLONES:
                error_or_none = uncloned[removal.volume, removal.name]
                if error_or_none is not None:
                    raise error_or_none
            else:
                assert site is not None
                _remove_dump(house, site, removal)
        except NotFound:
            pass  # somebody was faster
        except Unavailable as error:
            result.waiting.append((removal, str(error)))
            continue
        except Refused as error:
            result.waiting.append((removal, str(error)))
            continue
        except DalError as error:
            result.failed.append((removal, str(error)))
            continue
        result.removed.append(removal)
    return result


def _unclone_all(house: House, removals: list[Removal]) -> dict[tuple[str, str], DalError | None]:
    """Forget the clones of each volume in one write; return for each why it could not be, or None."""
    by_volume: dict[str, list[str]] = {}
    for removal in removals:
        by_volume.setdefault(removal.volume, []).append(removal.name)
    done: dict[tuple[str, str], DalError | None] = {}
    for volume, names in by_volume.items():
        try:
            found = house.volumes.unclone_many(volume, names)
        except DalError as error:
            found = dict.fromkeys(names, error)
        done.update(((volume, name), error) for name, error in found.items())
    return done


def _remove_dump(house: House, site: Installation, removal: Removal) -> None:
    """Remove files, then rows, then what the volume says of it: nothing builds on a dump that is gone.

    A copy whose medium is away keeps its row, and the dump stays known.
    """
    away: Unavailable | Refused | None = None
    for copy in removal.copies:
        try:
            if copy.target == SPOOL_TARGET:
                remove_durable(copy.path_in_spool())
            elif copy.target in site.targets:
                site.targets[copy.target].remove(copy)
            else:
                raise Unavailable(f"target {copy.target!r} is no longer in the policy: {copy.medium} keeps its copy")
        except (Unavailable, Refused) as error:
            away = error
            continue
        site.catalog.remove_copy(copy)
    if away is not None:
        raise away
    if removal.place == ARCHIVE:
        dump_id = bytes.fromhex(removal.name)
        entry = site.catalog.get_dump(dump_id)
        if entry is not None and house.volumes.get_by_id(entry.volume_id) is not None:
            house.volumes.update(entry.volume_id, lambda state: forget_dump(state, dump_id))
        site.catalog.remove_dump(dump_id)
