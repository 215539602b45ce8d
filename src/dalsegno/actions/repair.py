"""Repair: settle the conflicts that merges of a volume's replicas left behind."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dalsegno.actions.browse import telling
from dalsegno.actions.mount import mount_socket, tell_mount
from dalsegno.actions.session import House, author
from dalsegno.actions.signers import require_signed_content
from dalsegno.chunks.cut import Cutter
from dalsegno.formats import objects
from dalsegno.formats.objects import Entry, Revision, is_conflict
from dalsegno.pool.contract import Sink
from dalsegno.terms.errors import BadInput, NotFound, Refused
from dalsegno.trees.build import store_data
from dalsegno.trees.count import count_more_below
from dalsegno.trees.edit import edit_path
from dalsegno.trees.read import iterate_directory, read_revision, resolve_link, resolve_path
from dalsegno.trees.walk import walk
from dalsegno.volumes.address import parse_address
from dalsegno.volumes.state import NATIVE, VolumeState
from dalsegno.world.clock import now_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """A path at which both sides of a merge are kept; a hard link's side shows as the file behind it."""

    path: bytes
    sides: tuple[Entry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """A conflict that was settled."""

    volume: str
    path: bytes
    kept: str
    """The side's name, or the file on this host whose content stands there now."""
    revision: bytes


def list_conflicts(house: House, address: str) -> Iterator[Conflict]:
    """Yield the conflicts of a volume's newest state, at a path or below it."""
    state, path = _volume_at(house, address)
    if not state.head:
        return
    revision = read_revision(house.pool, state.head)
    tell = telling(house.report, state.name)
    for found, entry in walk(house.pool, revision, path, unreadable=tell):
        if is_conflict(entry):
            yield _conflict(house, revision, found, entry)


def repair(house: House, address: str, keep: str) -> Repaired:
    """Put one side of a conflict, or the content of a file on this host, in its place: a new revision.

    NotFound when there is no conflict, BadInput when `keep` names neither a side nor a file.
    """
    state, path = _volume_at(house, address)
    if not path:
        raise BadInput(f"{address}: expected VOLUME:/PATH; `dal repair {state.name}` lists the conflicts")
    if tell_mount(mount_socket(house, state.id), {"do": "where"}) is not None:
        raise Refused(f"volume {state.name!r} is mounted here: move the side that you want over the others there")
    if not state.head:
        raise NotFound(f"volume {state.name!r} is empty")
    require_signed_content(house, state, state.head)
    before = read_revision(house.pool, state.head)
    entry = resolve_path(house.pool, before, path)
    if not is_conflict(entry):
        raise NotFound(f"{address}: no conflict; `dal repair {state.name}` lists those that there are")
    sides = {side.name: side for side in iterate_directory(house.pool, entry.content)}
    with house.pool.writer(house.workers) as writer:
        chosen = sides.get(os.fsencode(keep))
        if chosen is None:
            chosen = _from_file(house, writer, Path(keep), entry, sides)
        # It is the file that the conflict was about again, for merges to come.
        node = 0 if chosen.kind == objects.ENTRY_LINK else entry.node
        placed = msgspec.structs.replace(chosen, name=entry.name, node=node)
        root = edit_path(house.pool, writer, before.root.content, path, placed)
        below = placed.content if placed.kind == objects.ENTRY_DIRECTORY else b""
        more_entries, more_bytes = count_more_below(house.pool, entry.content, below)
        revision = Revision(
            volume=state.id,
            parents=[state.head],
            root=msgspec.structs.replace(before.root, content=root),
            links=before.links,
            created_ns=max(now_ns(), before.created_ns + 1),
            author=author(),
            message=f"repair {os.fsdecode(path)}",
            entry_count=before.entry_count + more_entries,
            total_bytes=before.total_bytes + more_bytes + (placed.size if placed.kind == objects.ENTRY_FILE else 0),
            coverage=before.coverage,
        )
        state, identity = house.volumes.commit_revision(writer, state, revision)
    return Repaired(volume=state.name, path=path, kept=keep, revision=bytes(identity))


def _volume_at(house: House, address: str) -> tuple[VolumeState, bytes]:
    parsed = parse_address(address)
    if parsed.selector:
        raise BadInput(f"{address}: a clone does not change; expected VOLUME[:/PATH]")
    state = house.volumes.get(parsed.volume)
    if state.kind != NATIVE:
        raise Refused(f"volume {state.name!r} follows {os.fsdecode(state.source)}: change it there")
    return state, parsed.path


def _conflict(house: House, revision: Revision, path: bytes, entry: Entry) -> Conflict:
    sides = []
    for side in iterate_directory(house.pool, entry.content):
        shown = resolve_link(house.pool, revision.links, side)
        sides.append(msgspec.structs.replace(shown, name=side.name))
    return Conflict(path=path, sides=tuple(sides))


def _from_file(house: House, sink: Sink, path: Path, conflict: Entry, sides: dict[bytes, Entry]) -> Entry:
    """Return a file with the content of one on this host; who may do what with it is as on the first side."""
    if not path.is_file():
        names = ", ".join(os.fsdecode(name) for name in sides)
        raise BadInput(f"{path}: neither a file here nor a side of the conflict, which are {names}")
    like = next((side for side in sides.values() if side.kind == objects.ENTRY_FILE), None)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        mtime_ns = os.fstat(file.fileno()).st_mtime_ns

        def read(offset: int, length: int) -> bytes:
            return os.pread(file.fileno(), length, offset)

        if size <= objects.INLINE_BYTES_MAX:
            content = read(0, size)
            kind = objects.CONTENT_INLINE if content else objects.CONTENT_NONE
        else:
            cutter = Cutter(house.pool.realm.chunk_seed)
            kind, content = store_data(sink, cutter, read, [(0, size)], size)
    return Entry(
        name=conflict.name,
        kind=objects.ENTRY_FILE,
        mode=like.mode if like is not None else 0o644,
        uid=like.uid if like is not None else conflict.uid,
        gid=like.gid if like is not None else conflict.gid,
        owner=like.owner if like is not None else b"",
        group=like.group if like is not None else b"",
        mtime_ns=mtime_ns,
        size=size,
        node=like.node if like is not None else conflict.node,
        content_kind=kind,
        content=content,
    )
