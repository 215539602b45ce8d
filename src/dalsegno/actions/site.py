"""A whole site back from its media: catalog, then every volume's newest state, into a pool of the same realm."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dalsegno.actions.catalog import Rebuilt, rebuild
from dalsegno.actions.restore import restore_volume
from dalsegno.actions.retrieve import bad_label_note, find_and_plan, forget, retrieve
from dalsegno.actions.session import House
from dalsegno.archive.installation import Installation
from dalsegno.archive.labels import BadLabel, read_label
from dalsegno.backup.members import path_matches
from dalsegno.backup.policy import DirectoryPolicy, Policy, SharesPolicy, SpoolPolicy, TargetPolicy
from dalsegno.terms.errors import DalError, Damaged, NotFound
from dalsegno.terms.events import Report, silent
from dalsegno.terms.ids import hex_short
from dalsegno.volumes.state import TRACKED, VolumeState

TRIES_MAX = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredVolume:
    """How one volume came back."""

    volume: str
    state_at_ns: int = 0
    dump_count: int = 0
    clone_count: int = 0
    source: str = ""
    was_there: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredSite:
    """How a site came back."""

    catalog: Rebuilt
    volumes: tuple[RestoredVolume, ...]


def policy_of_media(paths: Sequence[Path], *, state_dir: Path, catalog_url: str, report: Report = silent) -> Policy:
    """Return a policy that knows of these media what their labels say: enough to restore from them.

    A medium whose label cannot be read is reported and left out, unless there is no other. NotFound: none is here.
    """
    places: dict[tuple[str, str], list[Path]] = {}
    for path in paths:
        try:
            label = read_label(path)
        except DalError as error:
            if len(paths) == 1:
                raise
            report(bad_label_note(BadLabel(path=path, error=error)))
            continue
        if label is None:
            raise NotFound(f"{path}: no labelled medium is here: mount it first")
        places.setdefault((label.target, label.kind), []).append(path.absolute())
    targets: dict[str, TargetPolicy] = {}
    for (name, kind), found in places.items():
        if kind == SharesPolicy.kind:
            targets[name] = SharesPolicy(name=name, paths=tuple(found), k=1)
        else:
            targets[name] = DirectoryPolicy(name=name, paths=tuple(found))
    return Policy(
        path=Path("the media"),
        state_dir=state_dir,
        catalog_url=catalog_url,
        spool=SpoolPolicy(path=state_dir / "spool"),
        timezone="UTC",
        targets=targets,
    )


def restore_site(house: House, site: Installation) -> RestoredSite:
    """Make catalog and volumes again from the media that are here. A volume that fails fails alone.

    Done again, it leaves volumes that are there already as they are.
    """
    rebuilt = rebuild(site, house.pool.realm, add=True, report=house.report)
    volumes = [_restore_volume(house, site, volume_id, name) for volume_id, name in site.catalog.volumes()]
    return RestoredSite(catalog=rebuilt, volumes=tuple(volumes))


def _restore_volume(house: House, site: Installation, volume_id: bytes, name: str) -> RestoredVolume:
    known = house.volumes.get_by_id(volume_id)
    if known is not None and known.head:
        return RestoredVolume(volume=known.name, clone_count=len(known.clones), was_there=True)
    name = _free_name(house, name, volume_id)
    error = ""
    for _ in range(TRIES_MAX):
        # What proves damaged is written down as such: the next try finds another copy, chain, or state.
        try:
            plan = find_and_plan(site, name, "latest", volume_id=volume_id, report=house.report)
            found = retrieve(site, plan, report=house.report)
            state = restore_volume(house, found.paths, name)
        except Damaged as damaged:
            error = str(damaged)
            continue
        except DalError as failed:
            return RestoredVolume(volume=name, error=str(failed))
        forget(site, found)
        state = _follow(house, site.policy, state, set_name=plan.state.top.set_name)
        return RestoredVolume(
            volume=name,
            state_at_ns=plan.state.top.cloned_at_ns,
            dump_count=len(plan.readings),
            clone_count=len(state.clones),
            source=os.fsdecode(state.source),
        )
    return RestoredVolume(volume=name, error=error)


def _free_name(house: House, name: str, volume_id: bytes) -> str:
    """Return a volume's name, or one like it when another volume has that."""
    try:
        taken = house.volumes.get(name)
    except NotFound:
        return name
    # A run that was killed may have made the volume without filling it.
    return name if taken.id == volume_id else f"{name}-{hex_short(volume_id)}"


def _follow(house: House, policy: Policy, state: VolumeState, *, set_name: str) -> VolumeState:
    """Let a volume follow its directory again, where the policy says which one that is."""
    source = find_source(policy, state.name, set_name=set_name)
    if source is None:
        return state
    return house.volumes.update(
        state.id, lambda current: msgspec.structs.replace(current, kind=TRACKED, source=os.fsencode(source))
    )


def find_source(policy: Policy, volume: str, *, set_name: str = "") -> str | None:
    """Return the directory that a volume of this name follows, when the sets' sources leave no doubt.

    The set that dumped it is asked alone, while the policy has it.
    """
    found = set()
    for chosen in [policy.sets[set_name]] if set_name in policy.sets else policy.sets.values():
        for word in chosen.sources:
            candidate = os.path.join(os.path.dirname(word), volume)
            if not re.search(r"[*?\[]", os.path.dirname(word)) and path_matches(candidate, word):
                found.add(candidate)
    return found.pop() if len(found) == 1 else None


def with_media(policy: Policy, paths: Sequence[Path], *, report: Report = silent) -> Policy:
    """Return a policy whose targets are looked for on these media alone."""
    media = policy_of_media(paths, state_dir=policy.state_dir, catalog_url=policy.catalog_url, report=report)
    return msgspec.structs.replace(policy, targets=media.targets)
