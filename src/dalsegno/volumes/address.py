"""Addresses: `[//SERVER/]VOLUME[@CLONE|@#REVISION-PREFIX|@TIME][:/PATH]`, `@latest` the default (docs/terms.md)."""

from dataclasses import dataclass
from pathlib import Path

from dalsegno.pool.pool import Pool
from dalsegno.terms.errors import BadInput, NotFound
from dalsegno.terms.times import SECOND_NS, TIMES_KNOWN, parse_time_ns, show_time
from dalsegno.volumes.ancestry import find_revision
from dalsegno.volumes.state import VolumeState
from dalsegno.volumes.store import Volumes
from dalsegno.world.files import is_file

CLOCKS_APART_NS = 86_400 * SECOND_NS
"""How far the clocks of those who commit and clone may be apart."""
NO_TIME_NS = -(1 << 63)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An address in its parts; `selector` is empty for the newest state."""

    volume: str
    """A name, or `//SERVER/NAME`: who opens volumes by name knows both, or says that it does not."""
    selector: str = ""
    path: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What an address names in a pool."""

    state: VolumeState
    revision: bytes
    clone: str | None
    path: bytes


def parse_address(text: str) -> Address:
    """Return the parts of an address. Old names like `u.hmpierce.backup` are told apart when it is resolved."""
    head, colon, path = text.partition(":/")
    volume, _, selector = head.partition("@")
    if not volume:
        raise BadInput(f"address {text!r}: expected VOLUME[@CLONE][:/PATH]")
    if volume.startswith("//"):
        server, slash, name = volume[2:].partition("/")
        if not (server and slash and name) or "/" in name:
            raise BadInput(f"address {text!r}: expected //SERVER/VOLUME[@CLONE][:/PATH]")
    inside = path.strip("/").encode(errors="surrogateescape") if colon else b""
    return Address(volume=volume, selector=selector, path=inside)


def plain_name(volume: str) -> str:
    """Return a volume's name without the server that was named with it."""
    return volume[2:].partition("/")[2] if volume.startswith("//") else volume


def resolve(pool: Pool, volumes: Volumes, address: Address, *, now_ns: int) -> Resolved:
    """Return the revision that `address` names; NotFound says what there is."""
    state, selector = _volume_of(volumes, address)
    if selector in ("", "latest"):
        if not state.head:
            raise NotFound(f"volume {state.name!r} is empty: import or back up something first")
        named = newest_name(pool, state)
        return Resolved(state=state, revision=state.head, clone=named, path=address.path)
    if selector.startswith("#"):
        known = {clone.revision for clone in state.clones.values()} | {revision for revision, _ in volumes.log(state)}
        found = sorted(revision for revision in known if revision.hex().startswith(selector[1:].lower()))
        if len(found) != 1 or len(selector) < 5:
            raise NotFound(f"{state.name}@{selector}: {len(found)} revisions fit; give 4 digits or more of one")
        return Resolved(state=state, revision=found[0], clone=None, path=address.path)
    clone = state.clones.get(selector)
    if clone is not None:
        return Resolved(state=state, revision=clone.revision, clone=selector, path=address.path)
    at_ns = parse_time_ns(selector, now_ns=now_ns)
    if at_ns is None:
        raise no_clone(state.name, selector)
    at_time = state.clones.newest_until(at_ns)
    if at_time is None:
        oldest = state.clones.oldest()
        what = f"the oldest is {state.name}@{oldest[0]}" if oldest else "it has no clones"
        raise NotFound(f"{state.name}@{selector}: no clone at or before {show_time(at_ns)}; {what}")
    return Resolved(state=state, revision=at_time[1].revision, clone=at_time[0], path=address.path)


def newest_name(pool: Pool, state: VolumeState) -> str | None:
    """Return the name of the newest clone of a volume's newest state, or None."""
    revision = find_revision(pool, state.head)
    # A clone is later than what it names, as far as clocks agree.
    since_ns = revision.created_ns - CLOCKS_APART_NS if revision is not None else NO_TIME_NS
    return next(state.clones.naming(state.head, since_ns=since_ns), None)


def no_clone(volume: str, selector: str) -> NotFound:
    """Return what to say of a selector that is neither a clone's name nor a time."""
    return NotFound(
        f"no clone {volume}@{selector}, and {selector!r} is not a time either (times are like {TIMES_KNOWN}): "
        f"`dal clones {volume}` shows what there is"
    )


def _volume_of(volumes: Volumes, address: Address) -> tuple[VolumeState, str]:
    try:
        return volumes.get(address.volume), address.selector
    except NotFound:
        stem, dot, last = address.volume.rpartition(".")
        if not dot or address.selector or not last:
            raise
        head, _, replica = stem.rpartition(".")
        for name in (stem, head if replica == "0" else ""):
            if name:
                try:
                    return volumes.get(name), last
                except NotFound:
                    continue
        raise


def dump_paths(text: str) -> list[Path] | None:
    """Return the files of a dump or a chain `full.dump+incr1.dump`, or None when `text` is not one."""
    # Not Path.is_file: an address in a volume may be longer than the path of any file.
    if is_file(text):
        return [Path(text)]
    parts = text.split("+")
    paths = [Path(part) for part in parts]
    if len(parts) > 1 and all(part for part in parts) and any(map(is_file, paths)):
        missing = [path for path in paths if not is_file(path)]
        if missing:
            raise NotFound(f"{missing[0]}: no such file")
        return paths
    if text.endswith(".dump"):
        raise NotFound(f"{text}: no such file")
    return None
