"""What a backup would do: the same scan, into a sink that only counts. Nothing is stored, made or remembered."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dalsegno.actions.backup import own_paths
from dalsegno.actions.browse import telling
from dalsegno.actions.rules import LeftOut, RulesChange, left_out, rules_of
from dalsegno.actions.session import House
from dalsegno.actions.sources import find_tracked, nothing_there
from dalsegno.chunks.cut import Cutter
from dalsegno.chunks.realm import SECRET_BYTES, Realm
from dalsegno.formats.objects import KIND_DIRECTORY, Revision
from dalsegno.host.baseline import Baseline
from dalsegno.host.cache import SCAN_SUFFIX, load_cache
from dalsegno.host.scan import ScanOptions, scan_tree
from dalsegno.pool.sources import Scratch
from dalsegno.terms.errors import NotFound
from dalsegno.terms.events import Report, silent
from dalsegno.terms.ids import UUID_BYTES, ObjectId
from dalsegno.trees.diff import Change, diff_revisions
from dalsegno.trees.diff_links import settle_links
from dalsegno.trees.read import read_revision
from dalsegno.volumes.state import VolumeState
from dalsegno.world.chance import random_bytes
from dalsegno.world.clock import now_ns
from dalsegno.world.files import is_directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What one backup would read and store."""

    volume: str
    """Empty when a volume would be made."""
    source: bytes
    entry_count: int
    total_bytes: int
    files_read: int
    bytes_read: int
    bytes_new: int
    """Bytes that the pool does not have, before compression."""
    unreadable: list[tuple[bytes, str]]
    left_out: list[LeftOut]
    changes: Iterator[Change]
    """Each path that differs from the state before; to be read while the house is open."""


class _Nothing:
    """The source of a pool that is not there yet."""

    def get(self, identity: ObjectId, /) -> bytes:
        raise NotFound(f"object {identity.hex()}: there is no pool yet")

    def has(self, identity: ObjectId, /) -> bool:
        return False


class _Counter(Scratch):
    """A sink that counts what its source has not."""

    bytes_new = 0

    def put(self, kind: int, payload: bytes, /) -> ObjectId:
        identity = super().put(kind, payload)
        if identity not in self.new and not self.base.has(identity):
            self.new.add(identity)
            self.bytes_new += len(payload)
        return identity

    def __init__(self, realm: Realm, base: "_Nothing | House") -> None:
        source = base if isinstance(base, _Nothing) else base.pool
        super().__init__(realm, source, keeps=(KIND_DIRECTORY,))
        self.base = source
        self.new: set[ObjectId] = set()


def preview(
    house: House | None,
    what: str,
    *,
    rules: RulesChange | None = None,
    by_name: bool = False,
    report: Report = silent,
) -> Preview:
    """Return what `backup` with the same words would do; without a house, what a first backup into a new pool would.

    NotFound and Refused as `backup` says them.
    """
    state: VolumeState | None = None
    if house is not None:
        state, directory = find_tracked(house, what, by_name=by_name)
    elif is_directory(what):
        directory = os.fsencode(os.path.realpath(what))
    else:
        raise nothing_there(what)
    left = left_out(state.settings if state is not None else {}, rules)
    realm = house.pool.realm if house is not None else Realm(random_bytes(SECRET_BYTES))
    counter = _Counter(realm, house if house is not None else _Nothing())
    previous: Revision | None = None
    baseline: Baseline | None = None
    if house is not None and state is not None and state.head:
        previous = read_revision(house.pool, state.head)
        cache = load_cache(house.cache_dir / f"{state.id.hex()}{SCAN_SUFFIX}", revision=state.head)
        baseline = Baseline(revision=previous, source=counter, cache=cache)
    scan = scan_tree(
        Path(os.fsdecode(directory)),
        sink=counter,
        cutter=Cutter(realm.chunk_seed),
        baseline=baseline,
        options=ScanOptions(rules=rules_of(left, own=own_paths(house, directory) if house is not None else ())),
        report=report,
    )
    then = Revision(
        volume=state.id if state is not None else bytes(UUID_BYTES),
        parents=[],
        root=scan.root,
        links=scan.links,
        created_ns=now_ns(),
        author="",
        message="",
        entry_count=scan.entry_count,
        total_bytes=scan.total_bytes,
    )
    tell = telling(report, state.name if state is not None else "")
    return Preview(
        volume=state.name if state is not None else "",
        source=directory,
        entry_count=scan.entry_count,
        total_bytes=scan.total_bytes,
        files_read=scan.files_read,
        bytes_read=scan.bytes_read,
        bytes_new=counter.bytes_new,
        unreadable=scan.unreadable,
        left_out=left,
        changes=settle_links(diff_revisions(counter, previous, then, unreadable=tell), counter, previous, then),
    )
