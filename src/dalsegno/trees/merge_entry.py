"""Merge what two sides made of one entry: field by field, or both sides of it kept as a conflict."""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

import msgspec

from dalsegno.formats import objects
from dalsegno.formats.objects import ENTRY_DIRECTORY, Entry, is_conflict
from dalsegno.pool.contract import Sink, Source
from dalsegno.trees.build import store_directory
from dalsegno.trees.read import entry_xattrs, iterate_directory

CONFLICT_MODE: Final = 0o755
CONFLICT_XATTRS: Final = b"\x01" + objects.encode_xattrs([(objects.CONFLICT_XATTR, b"1")])
NAME_BYTES_MAX: Final = 255
NODE_BITS: Final = 63

FIELDS: Final = (
    ("content_kind", "content", "size", "link", "device"),
    ("mode",),
    ("uid", "owner"),
    ("gid", "group"),
    ("flags",),
    ("node",),
    ("btime_ns",),
)
"""Fields of an entry that change together: who changed one of a group is taken to have changed the group."""
_NEVER_IN_CONFLICT: Final = ("node", "btime_ns")
"""Of these the smaller one wins: nobody sets them."""

Side = tuple[bytes, Entry]
"""One side of a conflict: its name there, and what it is."""


def merge_fields(source: Source, sink: Sink, base: Entry | None, a: Entry, b: Entry) -> Entry | None:
    """Merge two entries of one kind under the name of `a`; None when both changed one field, each in its way."""
    return _merge_fields(source, sink, base, a, b, winner=None)


def merge_attributes(source: Source, sink: Sink, base: Entry | None, a: Entry, b: Entry) -> Entry:
    """Merge what two directories say about themselves, without content and name; never a conflict.

    What both changed is as the one with the later mtime says.
    """
    bare = [_bare(entry) if entry is not None else None for entry in (base, a, b)]
    assert bare[1] is not None and bare[2] is not None
    winner = max((1, 2), key=lambda side: (_at(bare, side).mtime_ns, objects.encode(_at(bare, side))))
    merged = _merge_fields(source, sink, bare[0], bare[1], bare[2], winner=winner)
    assert merged is not None
    return merged


def _at(entries: list[Entry | None], side: int) -> Entry:
    entry = entries[side]
    assert entry is not None
    return entry


def _bare(entry: Entry) -> Entry:
    return msgspec.structs.replace(entry, name=b"", content=b"", content_kind=objects.CONTENT_DIRECTORY)


def _merge_fields(
    source: Source, sink: Sink, base: Entry | None, a: Entry, b: Entry, *, winner: int | None
) -> Entry | None:
    chosen: dict[str, object] = {}
    for fields in FIELDS:
        values = [tuple(getattr(entry, name) for name in fields) if entry else None for entry in (base, a, b)]
        if values[1] == values[2] or values[2] == values[0]:
            value = values[1]
        elif values[1] == values[0]:
            value = values[2]
        elif fields[0] in _NEVER_IN_CONFLICT:
            value = min(each for each in values[1:] if each is not None)
        elif winner is not None:
            value = values[winner]
        else:
            return None
        assert value is not None
        chosen.update(zip(fields, value, strict=True))
    xattrs = _merge_xattrs(source, sink, base, a, b, winner)
    if xattrs is None:
        return None
    times = [entry.mtime_ns if entry is not None else None for entry in (base, a, b)]
    if times[2] == times[0]:
        mtime_ns = a.mtime_ns
    else:
        mtime_ns = b.mtime_ns if times[1] == times[0] else max(a.mtime_ns, b.mtime_ns)
    return msgspec.structs.replace(a, **chosen, xattrs=xattrs, mtime_ns=mtime_ns)


def _merge_xattrs(
    source: Source, sink: Sink, base: Entry | None, a: Entry, b: Entry, winner: int | None
) -> bytes | None:
    old = base.xattrs if base else None
    if a.xattrs == b.xattrs or b.xattrs == old:
        return a.xattrs
    if a.xattrs == old:
        return b.xattrs
    tables = [dict(entry_xattrs(source, entry)) if entry else {} for entry in (base, a, b)]
    merged: dict[bytes, bytes] = {}
    for key in tables[1].keys() | tables[2].keys():
        values = [table.get(key) for table in tables]
        if values[1] == values[2] or values[2] == values[0]:
            value = values[1]
        elif values[1] == values[0]:
            value = values[2]
        elif winner is not None:
            value = values[winner]
        else:
            return None
        if value is not None:
            merged[key] = value
    return _store_xattrs(sink, merged)


def _store_xattrs(sink: Sink, xattrs: dict[bytes, bytes]) -> bytes:
    if not xattrs:
        return b""
    encoded = objects.encode_xattrs(list(xattrs.items()))
    if len(encoded) <= objects.XATTRS_INLINE_BYTES_MAX:
        return b"\x01" + encoded
    return b"\x02" + sink.put(objects.KIND_CHUNK, encoded)


# Conflicts


def side_name(label: bytes, name: bytes = b"") -> bytes:
    """Return the name of a side; of a rename with the name that was given."""
    return (label + b"." + name if name else label)[:NAME_BYTES_MAX]


def sides_of(source: Source, entry: Entry, label: bytes) -> list[Side]:
    """Return what an entry says: the sides of a conflict, or itself under a label."""
    if is_conflict(entry):
        return [(side.name, side) for side in iterate_directory(source, entry.content)]
    return [(label, entry)]


def side_key(entry: Entry) -> bytes:
    """Return what makes two sides the same: everything but name and node."""
    return objects.encode(msgspec.structs.replace(entry, name=b"", node=0))


def merge_sides(source: Source, base: Entry | None, a: Side, b: Side) -> list[Side]:
    """Merge two entries of which one at least is a conflict: what both kept, and what either added.

    What one of them took away is gone. Where nothing is left, both settled it in different ways: all count again.
    """
    old = {side_key(entry) for _, entry in sides_of(source, base, b"")} if base is not None else set()
    ours, theirs = ({side_key(side[1]): side for side in sides_of(source, each[1], each[0])} for each in (a, b))
    kept = [
        ours.get(key) or theirs[key]
        for key in sorted(ours.keys() | theirs.keys())
        if (key in ours and key in theirs) or key not in old
    ]
    return kept or [*ours.values(), *theirs.values()]


def make_conflict(
    source: Source, sink: Sink, name: bytes, sides: Iterable[Side], *, node: int, all_sides: bool = False
) -> Entry:
    """Store a conflict; the sides of conflicts count one by one. One that is there already is not added twice.

    `all_sides`: those that differ by name alone stay apart, as after a rename by both sides. A side gets a node of its
    own, so that no two files of a tree share one; the conflict itself has `node`.
    """
    flat = [each for label, entry in sides for each in sides_of(source, entry, label)]
    flat.sort(key=lambda side: (side[0], side_key(side[1])))
    chosen: dict[bytes, Entry] = {}
    keys: set[bytes] = set()
    for label, entry in flat:
        key = side_key(entry)
        if key in keys and not all_sides:
            continue
        keys.add(key)
        unique, number = label, 2
        while unique in chosen:
            ending = b"-%d" % number
            unique, number = label[: NAME_BYTES_MAX - len(ending)] + ending, number + 1
        was_side = entry.name == label
        chosen[unique] = msgspec.structs.replace(
            entry, name=unique, node=entry.node if was_side else mix_node(entry.node, label)
        )
    user = max((entry for _, entry in flat), key=lambda entry: (entry.uid, entry.owner))
    group = max((entry for _, entry in flat), key=lambda entry: (entry.gid, entry.group))
    return Entry(
        name=name,
        kind=ENTRY_DIRECTORY,
        mode=CONFLICT_MODE,
        uid=user.uid,
        gid=group.gid,
        owner=user.owner,
        group=group.group,
        mtime_ns=max(entry.mtime_ns for _, entry in flat),
        node=node,
        content_kind=objects.CONTENT_DIRECTORY,
        content=store_directory(sink, [chosen[each] for each in sorted(chosen)]),
        xattrs=CONFLICT_XATTRS,
    )


def mix_node(node: int, label: bytes) -> int:
    """Return a node for one of several things that a file became; none stays none.

    Of a side it is mixed with where the side comes from, of a hard-linked file in conflict with one of its names.
    """
    if not node:
        return 0
    mixed = blake2b(b"%d " % node + label, digest_size=8).digest()
    return int.from_bytes(mixed, "big") & ((1 << NODE_BITS) - 1) or 1
