"""Edit immutable trees: a changed directory or file as new objects, of which only what changed is stored.

The result is what building the whole anew would give: nodes and chunks are cut again from the change on, until a cut
falls where an old one was; from there on the old ones are kept as they are.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

import msgspec

from dalsegno.chunks.cut import CHUNK_BYTES_AVERAGE, CHUNK_BYTES_MAX, WINDOW_BYTES, Cutter
from dalsegno.formats import objects
from dalsegno.formats.objects import DirectoryChild, DirectoryLeaf, DirectoryList, Entry
from dalsegno.pool.contract import Sink, Source
from dalsegno.terms.errors import Damaged, NotFound
from dalsegno.terms.ids import ObjectId
from dalsegno.trees.build import DirectoryBuilder, RecipeBuilder
from dalsegno.trees.extents import PIECES_MAX, PIECES_NO_FILE_HAS, Extent, iterate_extents, recipe_leaves
from dalsegno.trees.read import child_node, directory_node, lookup
from dalsegno.trees.sorted import merge_entries

HOLE: Final = -1
"""The place of a piece that is zeros."""
LEAVES_NEAR: Final = 6
"""How far behind a change leaves of a recipe are looked into, for a place where old and new meet again."""
BASE: Final = -2
"""The place of a piece that is as it was before."""


# Directories


def edit_directory(source: Source, sink: Sink, identity: bytes, changes: Mapping[bytes, Entry | None]) -> ObjectId:
    """Store a directory with some names changed (None: removed) and return its id; no id at first is an empty one."""
    names = sorted(changes)
    builder = DirectoryBuilder(sink)
    leaves = list(_leaves(source, identity)) if identity else []
    position = 0
    for number, child in enumerate(leaves):
        last = number == len(leaves) - 1
        ends = len(names) if last else bisect_right(names, child.last_name, position)
        # The last leaf ended with the directory, not at a cut: it stays only if nothing comes behind it.
        if ends == position and builder.at_boundary and child.entry_count:
            builder.add_leaf(child)
            continue
        leaf = directory_node(source, child.id, 0)
        assert isinstance(leaf, DirectoryLeaf)
        for entry in merge_entries(leaf.entries, names[position:ends], changes):
            builder.add(entry)
        position = ends
    if not leaves:
        for entry in merge_entries([], names, changes):
            builder.add(entry)
    return builder.finish()


def edit_path(source: Source, sink: Sink, root: bytes, path: bytes, entry: Entry | None) -> ObjectId:
    """Store a tree with one path set (None: removed) and return its root directory's id.

    NotFound when what is above the path is not there. `source` must read what `sink` stored before.
    """
    *above, name = path.split(b"/")
    directories = [root]
    entries: list[Entry] = []
    for part in above:
        found = lookup(source, directories[-1], part)
        if found is None or found.kind != objects.ENTRY_DIRECTORY:
            raise NotFound(f"{part!r}: no such directory")
        directories.append(found.content)
        entries.append(found)
    content = edit_directory(source, sink, directories.pop(), {name: entry})
    while entries:
        changed = msgspec.structs.replace(entries.pop(), content=content)
        content = edit_directory(source, sink, directories.pop(), {changed.name: changed})
    return content


def _leaves(source: Source, identity: bytes) -> Iterator[DirectoryChild]:
    node = objects.decode_directory(source.get(ObjectId(identity)))
    if isinstance(node, DirectoryLeaf):
        yield DirectoryChild(node.entries[-1].name if node.entries else b"", len(node.entries), identity)
        return
    yield from _leaves_below(source, node)


def _leaves_below(source: Source, node: DirectoryList) -> Iterator[DirectoryChild]:
    if node.level == 1:
        yield from node.children
        return
    for row in range(len(node.children)):
        below = child_node(source, node, row)
        assert isinstance(below, DirectoryList)
        yield from _leaves_below(source, below)


# Files


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of a file, and where its bytes are: HOLE, BASE, or a place in the spool."""

    start: int
    end: int
    place: int


class Patches:
    """What was written over a file: ranges that never overlap, in order, each with the place of its bytes.

    `base_size` is how much of the file before still shows: what was cut off once does not come back.
    """

    __slots__ = ("_ends", "_places", "_starts", "base_size", "size")

    def __init__(self, size: int, *, base_size: int | None = None) -> None:
        self.size = size
        self.base_size = size if base_size is None else base_size
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._places: list[int] = []

    def __len__(self) -> int:
        return len(self._starts)

    def copy(self) -> "Patches":
        """Return the same, apart from this."""
        other = Patches(self.size, base_size=self.base_size)
        other._starts, other._ends, other._places = self._starts[:], self._ends[:], self._places[:]
        return other

    def put(self, start: int, end: int, place: int) -> None:
        """Say that `start` to `end` has its bytes at `place` (or is a HOLE); the file grows to hold it."""
        assert 0 <= start < end
        starts, ends, places = self._starts, self._ends, self._places
        self.size = max(self.size, end)
        if starts and start == ends[-1]:
            # What is appended goes on where the last one ended: one range.
            if _follows(places[-1], ends[-1] - starts[-1], place):
                ends[-1] = end
            else:
                starts.append(start)
                ends.append(end)
                places.append(place)
            return
        first = bisect_right(ends, start)
        last = bisect_left(starts, end)
        kept: list[tuple[int, int, int]] = []
        if first < last:
            if starts[first] < start:
                kept.append((starts[first], start, places[first]))
            kept.append((start, end, place))
            if ends[last - 1] > end:
                skipped = end - starts[last - 1]
                kept.append((end, ends[last - 1], places[last - 1] + skipped if places[last - 1] >= 0 else HOLE))
        else:
            kept.append((start, end, place))
        starts[first:last] = [each[0] for each in kept]
        ends[first:last] = [each[1] for each in kept]
        places[first:last] = [each[2] for each in kept]

    def truncate(self, size: int) -> None:
        """Make the file `size` long: what is behind is gone, what is new is a hole."""
        if size < self.size:
            count = bisect_left(self._starts, size)
            del self._starts[count:], self._ends[count:], self._places[count:]
            if count and self._ends[-1] > size:
                self._ends[-1] = size
            self.base_size = min(self.base_size, size)
        self.size = size

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        """Yield where the bytes from `start` to `end` are, in order and without a gap, up to the end of the file."""
        end = min(end, self.size)
        number = bisect_right(self._ends, start)
        while start < end:
            if number < len(self._starts) and self._starts[number] <= start:
                stop = min(end, self._ends[number])
                place = self._places[number]
                yield Piece(start, stop, place + start - self._starts[number] if place >= 0 else HOLE)
                number += 1
            else:
                stop = min(end, self._starts[number] if number < len(self._starts) else end)
                if start < self.base_size:
                    stop = min(stop, self.base_size)
                    yield Piece(start, stop, BASE)
                else:
                    yield Piece(start, stop, HOLE)
            start = stop

    def touches(self, start: int, end: int) -> bool:
        """Tell whether anything from `start` to `end` is not as it was."""
        number = bisect_right(self._ends, start)
        return end > min(self.base_size, self.size) or (number < len(self._starts) and self._starts[number] < end)

    def changed(self, size: int) -> tuple[int, int]:
        """Return from where to where a file of `size` bytes has changed; to its end when its length did."""
        first = min(self._starts[0] if self._starts else size, self.base_size, self.size)
        same_length = size == self.size == self.base_size
        return first, (self._ends[-1] if self._ends else first) if same_length else max(size, self.size) + 1

    def over(self, below: "Patches") -> "Patches":
        """Return these patches on top of earlier ones, as patches of what those were made over."""
        result = below.copy()
        if self.base_size < result.size:
            result.truncate(self.base_size)
        result.truncate(self.size)
        for start, end, place in zip(self._starts, self._ends, self._places, strict=True):
            result.put(start, end, place)
        result.size = self.size
        return result

    def places(self) -> Iterator[tuple[int, int, int]]:
        """Yield (start, end, place) of what lies in the spool."""
        for start, end, place in zip(self._starts, self._ends, self._places, strict=True):
            if place >= 0:
                yield start, end, place


def _follows(place: int, length: int, next_place: int) -> bool:
    return next_place == (place + length if place >= 0 else place)


def edit_content(
    source: Source,
    sink: Sink,
    cutter: Cutter,
    entry: Entry,
    patches: Patches,
    read: Callable[[int, int], bytes],
) -> tuple[int, bytes]:
    """Store a file after patches and return what Entry.content_kind and Entry.content must be.

    `entry` is the file before. `read(offset, length)` gives bytes of the file as it is now.
    """
    size = patches.size
    if size == 0:
        return objects.CONTENT_NONE, b""
    if size <= objects.INLINE_BYTES_MAX:
        return objects.CONTENT_INLINE, read(0, size)
    leaves = recipe_leaves(source, entry)
    # The changes of a large file are mostly near each other: what lies before and behind is taken leaf by leaf.
    for leaves_near in (LEAVES_NEAR, len(leaves)):
        stored = _edit_near(source, sink, cutter, entry, patches, read, leaves, leaves_near)
        if stored is not None:
            return stored
    raise AssertionError("with all leaves near, the file ends where it ends")


def _edit_near(
    source: Source,
    sink: Sink,
    cutter: Cutter,
    entry: Entry,
    patches: Patches,
    read: Callable[[int, int], bytes],
    leaves: list[Extent],
    leaves_near: int,
) -> tuple[int, bytes] | None:
    """Store the file, looking into the leaves that were changed and `leaves_near` behind them; None: look further."""
    builder = RecipeBuilder(sink)
    first, last = patches.changed(entry.size)
    position = 0
    for leaf in leaves:
        if leaf.end >= first:
            break
        builder.add_leaf(leaf.length, leaf.id)
        position = leaf.end
    # Whether the first run goes on from what is taken as it was.
    begun = position > 0 and any(each.id for each in iterate_extents(source, entry, start=position - 1, end=position))
    behind = [leaf for leaf in leaves if leaf.offset >= last]
    joints = {leaf.offset: number for number, leaf in enumerate(behind)}
    end = patches.size if leaves_near >= len(behind) else behind[leaves_near].offset
    extents = _extents(source, entry, position, min(patches.base_size, end))
    runs = _runs(patches, extents, position, end)
    natural = {extent.offset: extent for extent in extents if extent.id and _is_natural(extent, extents, runs, patches)}

    def joins(at: int) -> bool:
        return at in joints and builder.at_boundary

    for run_start, run_end in runs:
        if joins(position):
            break
        if run_start > position:
            builder.add(run_start - position, b"")
            position, begun = run_start, False
        single = run_end - run_start <= CHUNK_BYTES_AVERAGE and not begun
        begun = False
        position = _store_run(sink, cutter, builder, natural, position, run_end, read, joins, single=single)
        if position < run_end:
            break
    else:
        if end > position and not joins(position):
            builder.add(end - position, b"")
            position = end
    if position < patches.size:
        if not joins(position):
            return None
        for leaf in behind[joints[position] :]:
            builder.add_leaf(leaf.length, leaf.id)
    return builder.finish()


def _extents(source: Source, entry: Entry, start: int, end: int) -> list[Extent]:
    if entry.content_kind in (objects.CONTENT_CHUNK, objects.CONTENT_RECIPE):
        extents = list(islice(iterate_extents(source, entry, start=start, end=end), PIECES_MAX + 1))
        if len(extents) > PIECES_MAX:
            raise Damaged(f"{entry.name!r}: {PIECES_NO_FILE_HAS}")
        return extents
    # The bytes of a small file are in no chunk: one extent that cannot be kept.
    return [Extent(0, entry.size, b"inline")] if entry.content_kind == objects.CONTENT_INLINE and end else []


def _runs(patches: Patches, extents: list[Extent], start: int, end: int) -> list[tuple[int, int]]:
    """Return (start, end) of the data between the holes of the file as it is now, from `start` to `end`."""
    runs: list[tuple[int, int]] = []

    def add(start: int, end: int) -> None:
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], end)
        elif start < end:
            runs.append((start, end))

    number = 0
    for piece in patches.pieces(start, end):
        if piece.place >= 0:
            add(piece.start, piece.end)
        elif piece.place == BASE:
            while number < len(extents) and extents[number].end <= piece.start:
                number += 1
            at = number
            while at < len(extents) and extents[at].offset < piece.end:
                if extents[at].id:
                    add(max(piece.start, extents[at].offset), min(piece.end, extents[at].end))
                at += 1
    return runs


def _is_natural(extent: Extent, extents: list[Extent], runs: list[tuple[int, int]], patches: Patches) -> bool:
    """Tell whether a chunk is unchanged, and ends where cutting anew would end it."""
    if extent.id == b"inline" or patches.touches(extent.offset, extent.end):
        return False
    number = bisect_right(extents, extent.offset, key=lambda each: each.offset) - 1
    followed = number + 1 < len(extents) and bool(extents[number + 1].id)
    if followed or extent.length == CHUNK_BYTES_MAX:
        return True
    # It ended with its data, so that it is right only where the data still ends there.
    run = bisect_left(runs, extent.end, key=lambda each: each[1])
    return run < len(runs) and runs[run][1] == extent.end


def _store_run(
    sink: Sink,
    cutter: Cutter,
    builder: RecipeBuilder,
    natural: Mapping[int, Extent],
    start: int,
    end: int,
    read: Callable[[int, int], bytes],
    joins: Callable[[int], bool],
    *,
    single: bool,
) -> int:
    """Store a run of data up to its end, or to where the rest of the file can be taken as it was; return the place."""
    position = start
    while position < end and not joins(position):
        extent = natural.get(position)
        # What is at most one average long is one chunk, whatever the cutter thinks.
        if extent is not None and (not single or extent.length == end - start):
            builder.add(extent.length, extent.id)
            position = extent.end
            continue
        position = _cut_again(sink, cutter, builder, {} if single else natural, position, end, read, single=single)
    return position


def _cut_again(
    sink: Sink,
    cutter: Cutter,
    builder: RecipeBuilder,
    natural: Mapping[int, Extent],
    position: int,
    end: int,
    read: Callable[[int, int], bytes],
    *,
    single: bool,
) -> int:
    """Cut from `position` on until a cut falls where an old chunk begins that may stay; return where that is."""
    buffer = b""
    reading = position
    step = WINDOW_BYTES if not natural else 2 * CHUNK_BYTES_MAX
    while True:
        data = read(reading, min(step, end - reading))
        assert data, "the file is as long as its patches say"
        reading += len(data)
        buffer = buffer + data if buffer else data
        final = reading == end
        view = memoryview(buffer)
        ends = [len(buffer)] if single and final else cutter.cut(view, final=final)
        taken = 0
        for cut in ends:
            builder.add(cut - taken, sink.put(objects.KIND_CHUNK, bytes(view[taken:cut])))
            position += cut - taken
            taken = cut
            if position in natural:
                return position
        if final:
            assert position == end
            return position
        buffer = bytes(view[taken:])
